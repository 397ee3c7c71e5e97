"""The model of a report: cards, sections, and tables of plain text cells. Each format renders it as its own text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Final, Literal, Protocol

from slr_bench.report.charts.model import Bar as Bar
from slr_bench.units import plain

Tone = Literal["", "good", "bad", "warn"]
_FEW: Final = 3
"""Number of values from which a note that all of them share moves to the heading."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: plain text with an optional footnote."""

    text: str
    note: str | None = None
    sort: float | None = None
    """The number to sort by; without one the text is sorted by."""
    tone: Tone = ""
    detail: str = ""
    """A second, smaller line. A range stands in square brackets."""
    heat: float | None = None
    """Depth of the colour behind the value on the page, from 0 (best of the table) to 1 (worst)."""
    bar: Bar | None = None
    """A bar below the text."""
    link: str | None = None
    """Id of the element of the page that shows more."""
    strong: bool = False
    swatch: str = ""
    """A variable of the palette: the text follows a square of this colour."""

    @property
    def one_line(self) -> str:
        """The text and the detail in one line."""
        if self.detail.startswith("["):
            return f"{self.text} {self.detail}"
        return f"{self.text} ({self.detail})" if self.detail else self.text


@dataclass(frozen=True)
class Column:
    """The heading of a column. Numbers are aligned to the right."""

    title: str
    numeric: bool = False
    spare: bool = False
    """True: a narrow terminal drops the column first."""
    note: str | None = None
    """A footnote for all values of the column."""
    choices: bool = False
    """True: the page offers a filter by the column's values."""


@dataclass(frozen=True)
class Row:
    """One cell per column. ``strong`` rows are those that the headline compares."""

    cells: tuple[Cell, ...]
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """Columns and rows below a caption."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    heads: int = 1
    """Number of leading columns that name the row."""
    is_by_arm: bool = False
    """True: there is one row per arm, and the table is transposed if there are few arms."""

    @property
    def bars(self) -> set[int]:
        """Indices of the columns that have a bar."""
        return {place for row in self.rows for place, cell in enumerate(row.cells) if cell.bar}

    @cached_property
    def notes(self) -> dict[str, int]:
        """Text of each footnote -> its number, in order of appearance."""
        found = dict.fromkeys(column.note for column in self.columns if column.note)
        found |= dict.fromkeys(cell.note for row in self.rows for cell in row.cells if cell.note)
        return {note: number for number, note in enumerate(found, start=1)}


class Chart(Protocol):
    """A chart of the page. The template's macro with the name of its ``kind`` draws it."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, charts and tables."""

    key: str
    title: str
    paragraphs: tuple[str, ...]
    tables: tuple[Table, ...]
    charts: tuple[Chart, ...] = ()
    """Charts for the page; Markdown has pictures instead."""
    is_folded: bool = False
    """True: the section is closed at first, as reference matter."""
    anchors: frozenset[str] = frozenset()
    """Ids inside the charts, to which other parts of the page may link."""


@dataclass(frozen=True)
class CardLine:
    """One arm's value on a card. ``share`` is its part of the card's largest value, from 0 to 1."""

    arm: str
    text: str
    change: str
    tone: Tone
    share: float | None


@dataclass(frozen=True)
class Card:
    """One headline figure: the change, and the value of each arm."""

    title: str
    change: str
    tone: Tone
    basis: str
    """Basis of the change: processes, range or interval, verdict."""
    lines: tuple[CardLine, ...]
    mark: str = ""
    """``~`` (not significant) or ``n too small`` (no verdict)."""
    chip: str = ""
    """A label for figures that are not measured on real tensors: ``fake tensors``."""
    is_lead: bool = True
    """True: the page shows the card."""


@dataclass(frozen=True)
class Report:
    """Everything of a report except its pictures."""

    title: str
    lead: str
    """The result in one or two sentences."""
    measured: str
    """A sentence on the settings and the device that were measured."""
    warnings: tuple[str, ...]
    cards: tuple[Card, ...]
    headline: Table
    sections: tuple[Section, ...]
    command: str


def unknown(reason: str) -> Cell:
    """Return the cell for a value that is not known, with the reason as a footnote."""
    return Cell("–", note=plain(reason))


def transposed(data: Table, first: str = "Figure") -> Table:
    """Return the table with rows and columns exchanged. ``first`` is the heading of the first column."""
    is_numeric = any(column.numeric for column in data.columns)
    names = tuple(Column(row.cells[0].text, numeric=is_numeric) for row in data.rows)
    rows = (
        Row((Cell(column.title, note=column.note), *(row.cells[index] for row in data.rows)))
        for index, column in enumerate(data.columns)
        if index
    )
    return Table(data.caption, (Column(first), *names), tuple(rows))


def turned(data: Table) -> Table:
    """Transpose a table with one row per arm where it has fewer rows than columns."""
    return transposed(data) if data.is_by_arm and len(data.rows) < len(data.columns) else data


def without_empty_columns(data: Table) -> Table:
    """Return the table without the columns in which no row has a value."""
    kept = [
        index
        for index in range(len(data.columns))
        if index < data.heads or any(row.cells[index].text not in ("–", "") for row in data.rows)
    ]
    rows = (replace(row, cells=tuple(row.cells[index] for index in kept)) for row in data.rows)
    return replace(data, columns=tuple(data.columns[index] for index in kept), rows=tuple(rows))


def with_shared_notes(data: Table) -> Table:
    """Move a footnote that all values of a column share to the heading."""
    columns, rows = list(data.columns), [list(row.cells) for row in data.rows]
    for index, column in enumerate(columns):
        values = [cells[index] for cells in rows if cells[index].text != "–"]
        notes = {cell.note for cell in values}
        if len(values) < _FEW or len(notes) > 1 or None in notes:
            continue
        columns[index] = replace(column, note=notes.pop())
        for cells in rows:
            if cells[index].text != "–":
                cells[index] = replace(cells[index], note=None)
    made = (replace(row, cells=tuple(cells)) for row, cells in zip(data.rows, rows, strict=True))
    return replace(data, columns=tuple(columns), rows=tuple(made))

"""What a report is before it is terminal, Markdown or HTML text: cards, sections, tables of plain text cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Final, Literal, Protocol

from slr_bench.report.text.words import plain

Tone = Literal["", "good", "bad", "warn"]
_FEW: Final = 3
"""Values from which a note of all of them goes to the heading."""


@dataclass(frozen=True)
class Bar:
    """A length drawn under a cell's text: from ``start`` to ``end`` of the column's width (0 to 1)."""

    start: float
    end: float
    colour: str
    """A variable of the palette."""


@dataclass(frozen=True)
class Cell:
    """One cell: plain text, with an optional footnote."""

    text: str
    note: str | None = None
    sort: float | None = None
    """Number to sort by; None sorts by the text."""
    tone: Tone = ""
    detail: str = ""
    """A second, smaller line; a range stands in square brackets."""
    heat: float | None = None
    """How large among its like, 0 to 1: the depth of the ground behind it on the page."""
    bar: Bar | None = None
    link: str | None = None
    """Id of the place on the page that says more."""
    strong: bool = False
    swatch: str = ""
    """A variable of the palette: a spot of this colour before the text."""

    @property
    def whole(self) -> str:
        """Text and detail in one line."""
        if self.detail.startswith("["):
            return f"{self.text} {self.detail}"
        return f"{self.text} ({self.detail})" if self.detail else self.text


@dataclass(frozen=True)
class Column:
    """Heading of a column; numbers are set right-aligned."""

    title: str
    numeric: bool = False
    spare: bool = False
    """Given up first where there is no room."""
    note: str | None = None
    """A footnote of every value in it."""
    choices: bool = False
    """Whether the page offers its values to choose rows by."""


@dataclass(frozen=True)
class Row:
    """Cells, one a column; ``strong`` rows are what the headline compares."""

    cells: tuple[Cell, ...]
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """Columns and rows under a caption."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    heads: int = 1
    """Leading columns that name the row."""
    is_by_arm: bool = False
    """A row an arm: of few arms it reads better turned."""

    @property
    def bars(self) -> set[int]:
        """Columns that hold a bar."""
        return {place for row in self.rows for place, cell in enumerate(row.cells) if cell.bar}

    @cached_property
    def notes(self) -> dict[str, int]:
        """Footnote text -> its number, in order of appearance, each text once."""
        found = dict.fromkeys(column.note for column in self.columns if column.note)
        found |= dict.fromkeys(cell.note for row in self.rows for cell in row.cells if cell.note)
        return {note: number for number, note in enumerate(found, start=1)}


class Chart(Protocol):
    """A drawing of the page: plain numbers and text, laid out by the macro of the template that has its ``kind``."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Section:
    """A heading, what to know before reading, charts, tables."""

    key: str
    title: str
    paragraphs: tuple[str, ...]
    tables: tuple[Table, ...]
    charts: tuple[Chart, ...] = ()
    """Of the page alone; Markdown has pictures."""
    is_folded: bool = False
    """Reference matter, closed until it is asked for."""


@dataclass(frozen=True)
class CardLine:
    """One arm's value on a card. ``share`` (0 to 1) is its bar's length against the largest of the card."""

    arm: str
    text: str
    change: str
    tone: Tone
    share: float | None


@dataclass(frozen=True)
class Card:
    """One headline figure: the change, and the values of every arm behind it."""

    title: str
    change: str
    tone: Tone
    basis: str
    """What carries the figure: processes, range or interval, verdict."""
    lines: tuple[CardLine, ...]
    mark: str = ""
    """``~`` or ``n too small``: what the change does not allow to say."""
    chip: str = ""
    """What the figures are, where they are not what one would take them for: ``fake tensors``."""
    is_lead: bool = True
    """Whether it is one of the first few figures that the page shows large."""


@dataclass(frozen=True)
class Report:
    """Everything but the pictures."""

    title: str
    lead: str
    """The answer in a sentence or two."""
    measured: str
    """The setting that was measured."""
    warnings: tuple[str, ...]
    cards: tuple[Card, ...]
    headline: Table
    sections: tuple[Section, ...]
    command: str


def unknown(reason: str) -> Cell:
    """The cell of a value that is not there, with why."""
    return Cell("–", note=plain(reason))


def transposed(data: Table, first: str = "Figure") -> Table:
    """One row a column: a headline has more figures than arms. ``first`` heads the names of the rows."""
    is_numeric = any(column.numeric for column in data.columns)
    names = tuple(Column(row.cells[0].text, numeric=is_numeric) for row in data.rows)
    rows = (
        Row((Cell(column.title, note=column.note), *(row.cells[index] for row in data.rows)))
        for index, column in enumerate(data.columns)
        if index
    )
    return Table(data.caption, (Column(first), *names), tuple(rows))


def turned(data: Table) -> Table:
    """A table by arm with the fewer of arms and figures across."""
    return transposed(data) if data.is_by_arm and len(data.rows) < len(data.columns) else data


def without_empty_columns(data: Table) -> Table:
    """Leaves out what no row has."""
    kept = [
        index
        for index in range(len(data.columns))
        if index < data.heads or any(row.cells[index].text not in ("–", "") for row in data.rows)
    ]
    rows = (replace(row, cells=tuple(row.cells[index] for index in kept)) for row in data.rows)
    return replace(data, columns=tuple(data.columns[index] for index in kept), rows=tuple(rows))


def with_shared_notes(data: Table) -> Table:
    """A note that every value of a column has stands in its heading instead, once."""
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

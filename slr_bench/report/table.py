"""What a report is before it is terminal, Markdown or HTML text: cards, sections, tables of plain text cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slr_bench.report.words import plain

Tone = Literal["", "good", "bad", "warn"]


@dataclass(frozen=True)
class Cell:
    """One cell: plain text, with an optional footnote."""

    text: str
    note: str | None = None
    sort: float | None = None
    """Number to sort by; None sorts by the text."""
    tone: Tone = ""


@dataclass(frozen=True)
class Column:
    """Heading of a column; numbers are set right-aligned."""

    title: str
    numeric: bool = False
    spare: bool = False
    """Given up first where there is no room."""


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

    @property
    def notes(self) -> dict[str, int]:
        """Footnote text -> its number, in order of appearance, each text once."""
        found = dict.fromkeys(cell.note for row in self.rows for cell in row.cells if cell.note)
        return {note: number for number, note in enumerate(found, start=1)}


@dataclass(frozen=True)
class Section:
    """A heading, what to know before reading, tables."""

    key: str
    title: str
    paragraphs: tuple[str, ...]
    tables: tuple[Table, ...]


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

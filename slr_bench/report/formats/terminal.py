"""Prints a report in the terminal: the result, the headline table, the grid; and lists of lines below their notes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from textwrap import wrap

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from slr_bench.report.formats.table import Cell, Report, Row, Table, transposed

_STYLES = {"": "", "good": "green", "bad": "red", "warn": "yellow"}
_TEXT_WIDTH = 13
_WORD = 24
"""Length up to which a word is not broken. A longer word breaks behind a joint, if it has one."""
_JOINTS = re.compile(r"(?<=[_./=:,-])")
_FEWEST_COLUMNS = 3
_FRAME = 2  # a gap of two between columns, an edge of one at either side
_SHOWN = ("waterfall", "grid", "cost", "missing")
_INDENT = 2


def print_summary(report: Report, console: Console) -> None:
    """Print the main part of a report. Text of the run is never taken as rich markup."""
    console.print(Text(report.title, style="bold"))
    console.print(Text(report.lead))
    console.print(Text(report.measured, style="dim"))
    for warning in report.warnings:
        console.print(Text(f"Warning: {warning}", style="bold yellow"))
    print_table(transposed(report.headline), console)
    for section in report.sections:
        if section.key == "discarded" and section.tables:
            console.print(Text(f"{section.title}: {section.paragraphs[0]}", style="yellow"))
        if section.key in _SHOWN:
            for line in section.paragraphs if section.key == "missing" else ():
                console.print(Text(f"{section.title}: {line}", style="dim"))
            for table in section.tables:
                print_table(table, console)


def print_table(data: Table, console: Console, notes: dict[str, int] | None = None) -> None:
    """Print a table. A narrow terminal drops the ranges first, then spare columns, then the last column but one.

    The report files have all columns. ``notes`` numbers the footnotes of several tables; `print_notes` prints them.
    """
    numbers = data.notes if notes is None else notes
    shown = list(range(len(data.columns)))
    if _missing_room(data, shown, console.width, numbers) > 0:
        data = _without_ranges(data)
    while _missing_room(data, shown, console.width, numbers) > 0 and len(shown) > _FEWEST_COLUMNS:
        spare = [index for index in shown[1:-1] if data.columns[index].spare]
        shown.remove(spare[-1] if spare else shown[-2])
    console.print(_draw(data, shown, console.width, numbers))
    if notes is None:
        print_notes(numbers, console)


def print_notes(notes: dict[str, int], console: Console) -> None:
    """Print footnotes, one per line."""
    for note, number in notes.items():
        console.print(Text(f"  {number}) {note}", style="dim"))


def _without_ranges(data: Table) -> Table:
    def without(cell: Cell) -> Cell:
        return replace(cell, detail="") if cell.detail.startswith("[") else cell

    return replace(data, rows=tuple(Row(tuple(map(without, row.cells)), row.strong) for row in data.rows))


def _extents(data: Table, shown: Sequence[int], notes: dict[str, int]) -> list[tuple[int, int]]:
    """Return the least and the full width of each column. Numbers and the first column are not wrapped; texts are."""
    found = []
    for index in shown:
        column = data.columns[index]
        longest = max((len(_text(row.cells[index], notes)) for row in data.rows), default=0)
        words = [len(word) for word in column.title.split()]
        pieces = (len(one) for row in data.rows for one in _pieces(str(_text(row.cells[index], notes))))
        readable = max(_TEXT_WIDTH, min(_WORD, max(pieces, default=0)))
        least = longest if column.numeric or index == 0 else min(longest, readable)
        found.append((max([least, *words]), max(longest, len(column.title))))
    return found


def _missing_room(data: Table, shown: Sequence[int], room: int, notes: dict[str, int]) -> int:
    return sum(least for least, _ in _extents(data, shown, notes)) + _FRAME * len(shown) - room


def _draw(data: Table, shown: Sequence[int], room: int, notes: dict[str, int]) -> RichTable:
    """Make a table of fixed widths. With free widths rich would also shrink numbers, and overrun the terminal."""
    extents = _extents(data, shown, notes)
    widths = [least for least, _ in extents]
    for _ in range(-_missing_room(data, shown, room, notes)):  # free room goes to the column that lacks most
        lacks = [whole - width for (_, whole), width in zip(extents, widths, strict=True)]
        if max(lacks) > 0:
            widths[lacks.index(max(lacks))] += 1
    drawn = RichTable(
        title=Text(data.caption), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    for index, width in zip(shown, widths, strict=True):
        column = data.columns[index]
        drawn.add_column(
            Text(column.title), justify="right" if column.numeric else "left", overflow="fold", width=width
        )
    for row in data.rows:
        texts = (_broken(_text(row.cells[index], notes), width) for index, width in zip(shown, widths, strict=True))
        drawn.add_row(*texts, style="bold" if row.strong else None)
    return drawn


def _pieces(text: str) -> list[str]:
    """Return the parts of a text that are not broken."""
    return [piece for word in text.split() for piece in _JOINTS.split(word)]


def _broken(text: Text, width: int) -> Text:
    """Break words that are longer than the column at their joints; rich would break them anywhere."""
    ends: list[int] = []
    for word in re.finditer(r"\S+", str(text)):
        place = start = word.start()
        for piece in _JOINTS.split(word.group()) if len(word.group()) > width else ():
            if place > start and place + len(piece) - start > width:
                ends.append(place)
                start = place
            place += len(piece)
    return Text("\n").join(text.divide(ends)) if ends else text


def _text(cell: Cell, notes: dict[str, int]) -> Text:
    text = Text(cell.one_line, style=_STYLES[cell.tone])
    if cell.note:
        text.append(f" {notes[cell.note]})", style="dim")
    return text


@dataclass(frozen=True)
class Listing:
    """Lines below a caption. Each note is printed once, above all of its lines."""

    caption: str
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    """Each note with its lines. Lines without a note have an empty one."""


def by_note(caption: str, items: Iterable[tuple[str, str | None]]) -> Listing:
    """Group lines by their notes. ``items`` are pairs of a line and its note."""
    groups: dict[str, list[str]] = {}
    for line, note in items:
        groups.setdefault(note or "", []).append(line)
    ordered = sorted(
        groups.items(), key=lambda group: bool(group[0])
    )  # lines without a note come before the first note
    return Listing(caption, tuple((note, tuple(dict.fromkeys(lines))) for note, lines in ordered))


def print_listings(listings: Sequence[Listing], console: Console) -> None:
    """Print lists, wrapped at spaces and indented. Text of the run is never taken as rich markup."""
    for listing in listings:
        console.print(Text(listing.caption, style="bold"))
        for note, lines in listing.groups:
            if note:
                _print_hanging(f"{note}:", console, indent=_INDENT, style="dim")
            for line in lines:
                _print_hanging(f"- {line}", console, indent=2 * _INDENT if note else _INDENT, hanging=2)
        console.print()


def _print_hanging(text: str, console: Console, *, indent: int, hanging: int = 0, style: str = "") -> None:
    first, later = " " * indent, " " * (indent + hanging)
    width = max(console.width, 2 * len(later))
    for line in wrap(text, width, initial_indent=first, subsequent_indent=later, break_on_hyphens=False):
        console.print(Text(line, style=style))

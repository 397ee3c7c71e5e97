"""A report in the terminal: the answer, the headline table and the grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from slr_bench.report.content import read_content
from slr_bench.report.table import Cell, Column, Report, Row, Table

_STYLES = {"": "", "good": "green", "bad": "red", "warn": "yellow"}
_TEXT_WIDTH = 13
_FEWEST_COLUMNS = 3
_EDGES = 2  # rich measures a table without them
_UNBOUNDED = 10_000
_SHOWN = ("waterfall", "grid", "cost", "missing")


def print_summary(source: Path | Report, console: Console) -> None:
    """Print a report, or that of a run directory. Text of the run is never read as rich markup.

    Raises:
        ConfigError: the directory holds no readable ``grid.json``.
    """
    report = source if isinstance(source, Report) else read_content(source).report
    console.print(Text(report.title, style="bold"))
    console.print(Text(report.lead))
    console.print(Text(report.measured, style="dim"))
    for warning in report.warnings:
        console.print(Text(f"Warning: {warning}", style="bold yellow"))
    print_table(_transposed(report.headline), console)
    for section in report.sections:
        if section.key == "discarded" and section.tables:
            console.print(Text(f"{section.title}: {section.paragraphs[0]}", style="yellow"))
        if section.key in _SHOWN:
            for line in section.paragraphs if section.key == "missing" else ():
                console.print(Text(f"{section.title}: {line}", style="dim"))
            for table in section.tables:
                print_table(table, console)


def print_table(data: Table, console: Console) -> None:
    """In a narrow terminal first the ranges go, then the last columns but one; the reports have them all."""
    room = console.options.update(max_width=_UNBOUNDED)
    shown, drawn = list(range(len(data.columns))), _draw(data, range(len(data.columns)))
    if Measurement.get(console, room, drawn).minimum + _EDGES > console.width:
        data = _without_ranges(data)
        while (drawn := _draw(data, shown, _TEXT_WIDTH)) and len(shown) > _FEWEST_COLUMNS:
            if Measurement.get(console, room, drawn).minimum + _EDGES <= console.width:
                break
            del shown[-2]
    console.print(drawn)
    for note, number in data.notes.items():
        console.print(Text(f"  {number}) {note}", style="dim"))


def _without_ranges(data: Table) -> Table:
    rows = (
        Row(tuple(replace(cell, text=cell.text.split(" [")[0]) for cell in row.cells), row.strong) for row in data.rows
    )
    return replace(data, rows=tuple(rows))


def _draw(data: Table, shown: Sequence[int], widest_text: int | None = None) -> RichTable:
    """Numbers and the first column stay whole; headings and other texts wrap."""
    drawn = RichTable(
        title=Text(data.caption), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    notes = data.notes
    for index in shown:
        column = data.columns[index]
        longest = max((len(_text(row.cells[index], notes)) for row in data.rows), default=0)
        longest = max([longest, *(len(word) for word in column.title.split())])
        is_whole = column.numeric or index == 0
        drawn.add_column(
            Text(column.title),
            justify="right" if column.numeric else "left",
            overflow="fold",
            min_width=longest if is_whole else min(longest, _TEXT_WIDTH),
            max_width=None if is_whole else widest_text,
        )
    for row in data.rows:
        drawn.add_row(*(_text(row.cells[index], notes) for index in shown), style="bold" if row.strong else None)
    return drawn


def _transposed(data: Table) -> Table:
    """One row a column: the headline has more figures than arms, and a terminal is narrow."""
    names = tuple(Column(row.cells[0].text, numeric=True) for row in data.rows)
    rows = (
        Row((Cell(column.title), *(row.cells[index] for row in data.rows)), strong=True)
        for index, column in enumerate(data.columns)
        if index
    )
    return Table(data.caption, (Column(""), *names), tuple(rows))


def _text(cell: Cell, notes: dict[str, int]) -> Text:
    text = Text(cell.text, style=_STYLES[cell.tone])
    if cell.note:
        text.append(f" {notes[cell.note]})", style="dim")
    return text

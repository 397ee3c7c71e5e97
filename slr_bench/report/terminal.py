"""A report in the terminal: the answer, the headline table and the grid."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from slr_bench.report.content import read_content
from slr_bench.report.table import Cell, Column, Report, Row, Table

_STYLES = {"": "", "good": "green", "bad": "red", "warn": "yellow"}
_TEXT_WIDTH = 13
_GAP = 2  # padding and the line between columns
_SHOWN = ("grid", "cost", "missing")


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
    _print_table(_transposed(report.headline), console)
    for section in report.sections:
        if section.key in _SHOWN:
            for line in section.paragraphs if section.key == "missing" else ():
                console.print(Text(line, style="dim"))
            for table in section.tables:
                _print_table(table, console)


def _print_table(data: Table, console: Console) -> None:
    drawn = RichTable(
        title=Text(data.caption), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    notes = data.notes
    widths = _least_widths(data)
    shown = _columns_that_fit(widths, console.width)
    for index in shown:
        column = data.columns[index]
        justify: Literal["right", "left"] = "right" if column.numeric else "left"
        drawn.add_column(Text(column.title), justify=justify, overflow="fold", min_width=widths[index])
    for row in data.rows:
        drawn.add_row(*(_text(row.cells[index], notes) for index in shown), style="bold" if row.strong else None)
    console.print(drawn)
    for note, number in notes.items():
        console.print(Text(f"  {number}) {note}", style="dim"))


def _transposed(data: Table) -> Table:
    """One row a column: the headline has more figures than arms, and a terminal is narrow."""
    names = tuple(Column(row.cells[0].text, numeric=True) for row in data.rows)
    rows = (
        Row((Cell(column.title), *(row.cells[index] for row in data.rows)), strong=True)
        for index, column in enumerate(data.columns)
        if index
    )
    return Table(data.caption, (Column(""), *names), tuple(rows))


def _least_widths(data: Table) -> list[int]:
    """Numbers and the first column stay whole; headings and other texts wrap."""
    widths = []
    for index, column in enumerate(data.columns):
        longest = max((len(row.cells[index].text) for row in data.rows), default=0)
        longest = max([longest, *(len(word) for word in column.title.split())])
        widths.append(longest if column.numeric or index == 0 else min(longest, _TEXT_WIDTH))
    return widths


def _columns_that_fit(widths: list[int], room: int) -> list[int]:
    """In a narrow terminal the last columns but one go; the reports have them all."""
    shown = list(range(len(widths)))
    while len(shown) > 3 and sum(widths[index] + _GAP for index in shown) > room:
        del shown[-2]
    return shown


def _text(cell: Cell, notes: dict[str, int]) -> Text:
    text = Text(cell.text, style=_STYLES[cell.tone])
    if cell.note:
        text.append(f" {notes[cell.note]})", style="dim")
    return text

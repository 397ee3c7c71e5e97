"""A report in the terminal: the answer, the headline table and the grid."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from slr_bench.report.content import read_content
from slr_bench.report.table import Cell, Report, Table

_STYLES = {"": "", "good": "green", "bad": "red", "warn": "yellow"}
_SHOWN = ("grid", "missing")


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
    _print_table(report.headline, console)
    for section in report.sections:
        if section.key in _SHOWN:
            for line in section.paragraphs if section.key == "missing" else ():
                console.print(Text(line, style="dim"))
            for table in section.tables:
                _print_table(table, console)


def _print_table(data: Table, console: Console) -> None:
    drawn = RichTable(title=Text(data.caption), title_justify="left", box=box.SIMPLE_HEAD)
    for column in data.columns:
        drawn.add_column(Text(column.title), justify="right" if column.numeric else "left", overflow="fold")
    notes = data.notes
    for row in data.rows:
        drawn.add_row(*(_text(cell, notes) for cell in row.cells), style="bold" if row.strong else None)
    console.print(drawn)
    for note, number in notes.items():
        console.print(Text(f"  {number}) {note}", style="dim"))


def _text(cell: Cell, notes: dict[str, int]) -> Text:
    text = Text(cell.text, style=_STYLES[cell.tone])
    if cell.note:
        text.append(f" {notes[cell.note]})", style="dim")
    return text

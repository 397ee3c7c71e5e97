"""Changes that trainings made to themselves because of memory: a warning above the figures, and a section with all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from slr_bench.compare.cells import CellSummary
from slr_bench.record import Record, RunEvent
from slr_bench.report.formats.table import Cell, Column, Row, Section, Table
from slr_bench.report.text.wording import coordinates_text
from slr_bench.units import format_bytes, plain

_TEXT: Final = (
    "A training reacts to full memory: the loader gives up its cache, prefetching and processes, which changes no "
    "batch. If its setting allows it, the micro-batch is halved, and grows back when there is room. That changes what "
    "batch norm averages over, so the accuracy of such a training is not compared. Bytes that were not read are shown "
    "as a dash."
)


class _Change(NamedTuple):
    """An event with its run."""

    cell: CellSummary
    record: Record
    event: RunEvent


def _changes(cells: Sequence[CellSummary]) -> Iterator[_Change]:
    for cell in cells:
        for record in cell.records:
            yield from (_Change(cell, record, event) for event in record.events)


def batch_warnings(cells: Sequence[CellSummary]) -> list[str]:
    """Return one warning for each cell with a training that changed its batches on the way."""
    return [
        plain(f"{cell.entry.arm} ({coordinates_text(cell)}): {cell.batch_change}; its accuracy is not compared", 600)
        for cell in cells
        if cell.batch_change
    ]


def events_section(cells: Sequence[CellSummary]) -> Section | None:
    """Return every change of every training with its cause; None where no training changed itself."""
    rows = [_row(change) for change in _changes(cells)]
    if not rows:
        return None
    columns = (
        *map(Column, ("Arm", "Setting", "Run")),
        Column("After step", numeric=True),
        Column("Change"),
        Column("Memory in use", numeric=True),
        Column("Held by the training", numeric=True),
    )
    table = Table("Changes during trainings", columns, tuple(rows))
    return Section("events", "What trainings changed on the way", (_TEXT,), (table,))


def _row(change: _Change) -> Row:
    cell, record, event = change
    texts = (plain(cell.entry.arm, 40), coordinates_text(cell), f"{record.side}{record.repeat}")
    sizes = (event.used_bytes, event.own_bytes)
    return Row(
        (
            *map(Cell, texts),
            Cell(str(event.step), sort=event.step),
            Cell(plain(event.text), tone="warn" if event.changes_batch else ""),
            *(Cell(format_bytes(size), sort=size) for size in sizes),
        )
    )

"""A comparison as tables: over all cells, and cell by cell."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from slr_bench.compare.comparison import Comparison, Unmatched
from slr_bench.compare.judgement import ComparedCell
from slr_bench.compare.sides import SideName
from slr_bench.report.formats.table import Cell, Column, Row, Table
from slr_bench.report.text.metrics import label
from slr_bench.report.text.words import format_value, plain
from slr_bench.report.views.compare_words import cell_name, change_text, verdict_cell

MAIN: Final = (
    "peak_tensor_bytes",
    "peak_allocated_bytes",
    "rss_over_start_bytes",
    "step_time_s",
    "training_time_s",
    "accuracy_top1",
)
"""Metrics that are shown whatever they say."""
_CELL_COLUMNS: Final = (
    Column("Cell"),
    Column("Metric"),
    Column("Base", numeric=True),
    Column("Head", numeric=True),
    Column("Change", numeric=True),
    Column("Verdict"),
)


@dataclass(frozen=True)
class Notice:
    """What to know, said once, and the cells that it is of."""

    text: str
    cells: tuple[str, ...] = ()


def metric_name(metric: str) -> str:
    """A metric's name for people, cut."""
    return plain(label(metric), 60)


def overall_table(comparison: Comparison) -> Table:
    """One row a workload and metric."""
    rows = [
        Row(
            (
                Cell(plain(found.workload, 60)),
                Cell(metric_name(found.metric)),
                Cell(change_text(found), sort=found.ratio),
                verdict_cell(found),
                Cell(f"{found.different} of {found.cells} cells" if found.cells else "–"),
            )
        )
        for found in comparison.overall
    ]
    columns = (
        Column("Workload"),
        Column("Metric"),
        Column("Change", numeric=True),
        Column("Verdict"),
        Column("Differ", numeric=True, spare=True),
    )
    return Table("Over all cells", columns, tuple(rows))


def cell_table(caption: str, cells: Iterable[ComparedCell]) -> Table:
    """One row a cell and metric, both sides' values beside each other whether they compare or not."""
    return Table(caption, _CELL_COLUMNS, tuple(Row(cell_row(cell)) for cell in cells))


def cell_row(cell: ComparedCell) -> tuple[Cell, ...]:
    """The row of `cell_table`."""
    base, head = value_texts(cell)
    return (
        Cell(cell_name(cell)),
        Cell(metric_name(cell.metric)),
        Cell(base, sort=cell.base),
        Cell(head, sort=cell.head),
        Cell(change_text(cell), sort=cell.ratio),
        verdict_cell(cell),
    )


def value_texts(cell: ComparedCell) -> tuple[str, str]:
    """Both values; to the byte where they differ in what is rounded away."""
    base, head = format_value(cell.base, cell.unit), format_value(cell.head, cell.unit)
    if cell.unit == "bytes" and base == head and cell.base != cell.head:
        return f"{cell.base:,.0f} B", f"{cell.head:,.0f} B"
    return base, head


def tables_by_cell(cells: Sequence[ComparedCell]) -> list[Table]:
    """A table a cell, one row a metric: narrower than `cell_table`."""
    groups: dict[tuple[str, str], list[ComparedCell]] = {}
    for cell in cells:
        groups.setdefault((cell.cell_id, cell.arm), []).append(cell)
    return [
        Table(cell_name(group[0]), _CELL_COLUMNS[1:], tuple(Row(cell_row(cell)[1:]) for cell in group))
        for group in groups.values()
    ]


def notable(cells: Sequence[ComparedCell]) -> list[ComparedCell]:
    """The main metrics, and whatever else differs or is a fault."""
    return [cell for cell in cells if cell.metric in MAIN or cell.is_significant or cell.is_fault]


def warnings(comparison: Comparison, told: Collection[Unmatched] = ()) -> list[Notice]:
    """What to know before the tables: cells of one side but for those ``told`` elsewhere, disturbed runs, files that
    are no records."""
    disturbed = sum(ends.disturbed for ends in comparison.outcomes)
    lone: dict[tuple[SideName, str], list[str]] = {}
    for cell in comparison.unmatched:
        if cell not in told and not _is_told_by_its_twin(cell, comparison.unmatched):
            lone.setdefault((cell.side, cell.reason or ""), []).append(f"{cell_name(cell)} ({cell.cell_id})")
    found = [_lone(side, reason, names) for (side, reason), names in lone.items()]
    if disturbed:
        text = f"{disturbed} runs were disturbed from outside: their times are suspect, traced bytes are not"
        found.append(Notice(text))
    return [*found, *(Notice(plain(text)) for text in comparison.problems)]


def _is_told_by_its_twin(cell: Unmatched, others: Sequence[Unmatched]) -> bool:
    """Whether the base's cell of the same setting or name says where the head's is."""
    return cell.side == "head" and any(
        one.side == "base"
        and one.reason is not None
        and one.workload == cell.workload
        and (one.cell_id == cell.cell_id or (one.arm, one.coordinates) == (cell.arm, cell.coordinates))
        for one in others
    )


def _lone(side: SideName, reason: str, names: Sequence[str]) -> Notice:
    why = f": {plain(reason)}" if reason else ""
    if len(names) == 1:
        return Notice(plain(f"only the {side} has {names[0]}{why}"))
    return Notice(f"only the {side} has {len(names)} cells{why}", tuple(names))

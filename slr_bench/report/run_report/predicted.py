"""What was predicted of memory beside what a meter read: the closer to 1, the better the prediction."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final, NamedTuple

from slr_bench.compare.cells import CellSummary
from slr_bench.report.formats.table import Cell, Column, Row, Section, Table
from slr_bench.report.text.cell_names import coordinates_text
from slr_bench.report.text.metrics import label
from slr_bench.report.text.words import plain


class Pair(NamedTuple):
    """A metric that predicts, and the metric that tells."""

    predicted: str
    measured: str
    meaning: str


PAIRS: Final = (
    Pair("floor_bytes", "peak_tensor_bytes", "how far the step is from the least that its operators need"),
    Pair("peak_tensor_bytes", "peak_cpu_allocator_bytes", "what operators allocate inside themselves"),
    Pair("peak_tensor_bytes", "peak_allocated_bytes", "workspaces, and rounding to blocks"),
    Pair("peak_allocated_bytes", "peak_reserved_bytes", "what the caching allocator holds beside"),
    Pair("peak_reserved_bytes", "nvml_process_peak_bytes", "the CUDA context and other libraries"),
)
"""A prediction made before a run belongs here as a metric of its own, beside what it predicts."""


def predicted_section(cells: Sequence[CellSummary]) -> Section | None:
    """A row a pair of metrics that some cell has both of; None where there is none."""
    rows = [row for kind in PAIRS if (row := _row(kind, cells)) is not None]
    if not rows:
        return None
    columns = (
        Column("Predicted"),
        Column("Measured"),
        Column("Cells", numeric=True),
        Column("Measured over predicted", numeric=True),
        Column("Lowest – highest", numeric=True),
        Column("Highest in"),
        Column("What is between them"),
    )
    table = Table("Ratios over the cells", columns, tuple(rows))
    text = (
        "Each figure counts more than the one before: the operator floor, live tensors, the allocator, the driver. What"
        " is predicted before a run and what fake tensors say is compared with a real run's by the same ratio."
    )
    return Section("predicted", "Predicted against measured", (text,), (table,))


def _row(kind: Pair, cells: Sequence[CellSummary]) -> Row | None:
    ratios = []
    for cell in cells:
        predicted, measured = cell.value(kind.predicted), cell.value(kind.measured)
        if predicted and measured:
            ratios.append((measured / predicted, cell))
    if not ratios:
        return None
    values = [ratio for ratio, _ in ratios]
    middle, (highest, farthest) = statistics.median(values), max(ratios, key=lambda pair: pair[0])
    where = f"{plain(farthest.entry.arm, 40)} ({coordinates_text(farthest)})"
    return Row(
        (
            Cell(label(kind.predicted)),
            Cell(label(kind.measured)),
            Cell(str(len(values)), sort=len(values)),
            Cell(f"{middle:.3f}×", sort=middle),
            Cell(f"{min(values):.3f} – {highest:.3f}", sort=highest),
            Cell(plain(where)),
            Cell(kind.meaning),
        )
    )

"""The matrix of arms and axes: one figure of every cell, beside that of the first arm at the same axes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from slr_bench.compare.cells import CellSummary, Reading
from slr_bench.compare.judgement import SAME, TOO_FEW
from slr_bench.grid.description import value_text
from slr_bench.record import Outcome
from slr_bench.report.formats.table import Cell, Column, Row, Section, Table, with_shared_notes
from slr_bench.report.run_report.headline import change
from slr_bench.report.run_report.sections import SUSPECT, outcome_cell
from slr_bench.report.text.metrics import label
from slr_bench.report.text.wording import anchor, axes_text
from slr_bench.units import format_value, is_number, plain

METRICS: Final = ("peak_tensor_bytes", "peak_allocated_bytes", "step_time_s")
"""Metrics with a table of their own, before the headline metrics of the workload."""
WIDEST: Final = 8
"""Largest number of columns of values, where the other side of the table is longer."""
_TEXT: Final = (
    "Each cell is compared with the first arm at the same values of the axes. "
    f"{SAME}: not significant; {TOO_FEW}: no verdict; ·: not in the grid. An arm's own setting is bold. "
    "On the page a darker colour means more memory or time, or less accuracy."
)


def matrix_section(cells: Sequence[CellSummary]) -> Section | None:
    """Return one table per workload and metric; None where no workload has axes."""
    tables = []
    for workload in dict.fromkeys(cell.entry.workload for cell in cells):
        own = [cell for cell in cells if cell.entry.workload == workload and cell.side == "a"]
        if any(cell.entry.coordinates for cell in own):
            headline = (metric.metric for metric in own[0].description.headline_of(workload))
            names = dict.fromkeys((*METRICS, *headline))
            tables += [_table(own, name) for name in names if any(cell.value(name) for cell in own)]
    return Section("matrix", "Arms and axes", (_TEXT,), tuple(tables)) if tables else None


def _table(cells: Sequence[CellSummary], metric: str) -> Table:
    arms = list(dict.fromkeys(cell.entry.arm for cell in cells))
    places = {_place(cell): cell for cell in cells}
    at = {(cell.entry.arm, _place(cell)): cell for cell in cells}
    values = [value for cell in cells if (value := cell.value(metric)) is not None]
    text = cells[0].description.metric_text(metric)
    heat = Heat(min(values), max(values), text is not None and text.larger_is_better)

    def shown(arm: str, place: str) -> Cell:
        return _cell(at.get((arm, place)), at.get((arms[0], place)) if arm != arms[0] else None, metric, heat)

    title = f"{label(metric, cells[0].description)}, {plain(cells[0].entry.workload, 40)}"
    if len(arms) > min(WIDEST, len(places)):
        heads = (plain(axes_text(cell) or "own setting", 80) for cell in places.values())
        columns = (Column("Arm"), *(Column(head, numeric=True) for head in heads))
        rows = [Row((Cell(plain(arm, 40)), *(shown(arm, place) for place in places))) for arm in arms]
        return with_shared_notes(Table(title, columns, tuple(rows)))
    axes = list(dict.fromkeys(key for cell in cells for key in cell.entry.coordinates))
    rows = [
        Row((*(_axis_cell(cell, key) for key in axes), *(shown(arm, place) for arm in arms)))
        for place, cell in places.items()
    ]
    columns = (
        *(Column(plain(key.rsplit(".", 1)[-1], 40), choices=True) for key in axes),
        *(Column(plain(arm, 40), numeric=True) for arm in arms),
    )
    return with_shared_notes(Table(title, columns, tuple(rows), heads=len(axes)))


def _place(cell: CellSummary) -> str:
    return json.dumps(cell.entry.coordinates, sort_keys=True)


def _axis_cell(cell: CellSummary, key: str) -> Cell:
    if key not in cell.entry.coordinates:
        return Cell("own")
    value = cell.entry.coordinates[key]
    return Cell(value_text(value), sort=float(value) if is_number(value) else None)


class Heat(NamedTuple):
    """Maps a value to the depth of its colour: by its logarithm, because arms differ by factors."""

    low: float
    high: float
    is_larger_better: bool

    def depth(self, value: float) -> float:
        """Return the depth from 0 (best) to 1 (worst)."""
        if not self.high > self.low:
            return 0.0
        if self.low > 0 and not self.is_larger_better:
            return math.log(value / self.low) / math.log(self.high / self.low)
        share = (value - self.low) / (self.high - self.low)
        return 1 - share if self.is_larger_better else share


def _cell(cell: CellSummary | None, base: CellSummary | None, metric: str, heat: Heat) -> Cell:
    if cell is None:
        return Cell("·")
    reading = cell.readings.get(metric)
    link = anchor(cell) if cell.records else None
    if reading is None or reading.value is None:
        if set(cell.outcomes) == {Outcome.OK}:
            return Cell("–", note=plain("; ".join(reading.reasons)) if reading else "not measured", link=link)
        return Cell(outcome_cell(cell).text, tone="warn", link=link, strong=cell.entry.is_own)
    return Cell(
        format_value(reading.value, reading.unit),
        note=SUSPECT if cell.is_disturbed and reading.unit == "s" else None,
        sort=reading.value,
        detail=_against(base, cell, reading, metric),
        heat=heat.depth(reading.value),
        link=link,
        strong=cell.entry.is_own,
    )


def _against(base: CellSummary | None, cell: CellSummary, reading: Reading, metric: str) -> str:
    start = base.readings.get(metric) if base else None
    if base is None or start is None or start.value is None:
        return ""
    found = change(start, reading, is_disturbed=base.is_disturbed or cell.is_disturbed)
    return found.marked.replace(" as long", "")  # the caption names the metric

"""The ablation matrix: one figure of every cell, arms against the values of the axes, each beside the reference arm."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Final

from slr_bench.compare.cells import CellSummary, Reading
from slr_bench.compare.judgement import SAME, TOO_FEW
from slr_bench.record import Outcome
from slr_bench.report.formats.table import Cell, Column, Row, Section, Table, with_shared_notes
from slr_bench.report.run_report.changes import change
from slr_bench.report.run_report.sections import outcome_cell
from slr_bench.report.text.cell_names import anchor, axes_text
from slr_bench.report.text.metrics import label
from slr_bench.report.text.setting import value_text
from slr_bench.report.text.words import format_value, plain
from slr_bench.units import is_number

METRICS: Final = ("peak_tensor_bytes", "peak_allocated_bytes", "step_time_s", "training_time_s", "accuracy_top1")
WIDEST: Final = 8
"""Columns of values at most, where the other side is longer."""
_TEXT: Final = (
    "Each cell against the first arm at the same values of the axes. "
    f"{SAME}: not significant; {TOO_FEW}: no verdict; ·: not in the grid. Bold: an arm's own setting. "
    "On the page the ground is darker, the more memory or time (the less accuracy)."
)


def matrix_section(cells: Sequence[CellSummary]) -> Section | None:
    """A table a workload and metric; None where no workload has axes."""
    tables = []
    for workload in dict.fromkeys(cell.entry.workload for cell in cells):
        own = [cell for cell in cells if cell.entry.workload == workload and cell.side == "a"]
        if any(cell.entry.coordinates for cell in own):
            tables += [_table(own, workload, name) for name in METRICS if any(cell.value(name) for cell in own)]
    return Section("matrix", "Arms and axes", (_TEXT,), tuple(tables)) if tables else None


def _table(cells: Sequence[CellSummary], workload: str, metric: str) -> Table:
    arms = list(dict.fromkeys(cell.entry.arm for cell in cells))
    places = {_place(cell): cell for cell in cells}
    at = {(cell.entry.arm, _place(cell)): cell for cell in cells}
    values = [value for cell in cells if (value := cell.value(metric)) is not None]
    scale = _Heat(min(values), max(values), is_shallow_when_large=metric.startswith("accuracy"))

    def shown(arm: str, place: str) -> Cell:
        return _cell(at.get((arm, place)), at.get((arms[0], place)) if arm != arms[0] else None, metric, scale)

    title = f"{label(metric)}, {plain(workload, 40)}"
    if len(arms) > min(WIDEST, len(places)):
        columns = (Column("Arm"), *(Column(_together(places[place]), numeric=True) for place in places))
        rows = [Row((Cell(plain(arm, 40)), *(shown(arm, place) for place in places))) for arm in arms]
        return with_shared_notes(Table(title, columns, tuple(rows)))
    axes = list(dict.fromkeys(key for cell in cells for key in cell.entry.coordinates))
    heads = [Column(plain(key.rsplit(".", 1)[-1], 40), choices=True) for key in axes]
    rows = [
        Row((*(_axis_cell(cell, key) for key in axes), *(shown(arm, place) for arm in arms)))
        for place, cell in places.items()
    ]
    columns = (*heads, *(Column(plain(arm, 40), numeric=True) for arm in arms))
    return with_shared_notes(Table(title, columns, tuple(rows), heads=len(axes)))


def _place(cell: CellSummary) -> str:
    return json.dumps(cell.entry.coordinates, sort_keys=True)


def _axis_cell(cell: CellSummary, key: str) -> Cell:
    if key not in cell.entry.coordinates:
        return Cell("own")
    value = cell.entry.coordinates[key]
    return Cell(value_text(value), sort=float(value) if is_number(value) else None)


def _together(cell: CellSummary) -> str:
    return plain(axes_text(cell) or "own setting", 80)


class _Heat:
    """From a value to the depth of its ground: by its logarithm, as arms differ by factors."""

    def __init__(self, low: float, high: float, *, is_shallow_when_large: bool) -> None:
        self._low, self._high, self._is_turned = low, high, is_shallow_when_large

    def __call__(self, value: float) -> float:
        if not self._high > self._low:
            return 0.0
        if self._low > 0 and not self._is_turned:
            share = math.log(value / self._low) / math.log(self._high / self._low)
        else:
            share = (value - self._low) / (self._high - self._low)
        return 1 - share if self._is_turned else share


def _cell(cell: CellSummary | None, base: CellSummary | None, metric: str, heat: _Heat) -> Cell:
    if cell is None:
        return Cell("·")
    reading = cell.readings.get(metric)
    link = anchor(cell) if cell.records else None
    if reading is None or reading.value is None:
        failed = outcome_cell(cell)
        if set(cell.outcomes) == {Outcome.OK}:
            return Cell("–", note=plain("; ".join(reading.reasons)) if reading else "not measured", link=link)
        return Cell(failed.text, tone="warn", link=link, strong=cell.entry.is_own)
    text, note = format_value(reading.value, reading.unit), None
    if cell.is_disturbed and reading.unit == "s":
        note = "something else disturbed it: its times are suspect"
    own = cell.entry.is_own
    return Cell(
        text, note, reading.value, "", _against(base, cell, reading, metric), heat(reading.value), None, link, own
    )


def _against(base: CellSummary | None, cell: CellSummary, reading: Reading, metric: str) -> str:
    start = base.readings.get(metric) if base else None
    if base is None or start is None or start.value is None:
        return ""
    found = change(start, reading, is_disturbed=base.is_disturbed or cell.is_disturbed)
    return found.marked.replace(" as long", "")  # the caption says what it is of

"""The sections that show the run cell by cell: the grid, failures, interference, and the matrix of arms and axes."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from slr_bench.compare.cells import CellSummary, Reading
from slr_bench.compare.comparability import batch_change
from slr_bench.compare.judgement import SAME, TOO_FEW
from slr_bench.grid.description import value_text
from slr_bench.record import SPLIT, Outcome, Record
from slr_bench.report.formats.table import Bar, Cell, Column, Row, Section, Table, unknown, with_shared_notes
from slr_bench.report.run_report.headline import change
from slr_bench.report.text.wording import OUTCOME_WORDS, anchor, axes_text, coordinates_text, label, spread
from slr_bench.run.cell_runner import CLOCK_JUMP_S, FOREIGN_CPU_SHARE, SWAPPED_BYTES
from slr_bench.units import format_bytes, format_value, is_number, plain

GRID_METRICS: Final = (
    "peak_tensor_bytes",
    "peak_over_floor",
    "peak_allocated_bytes",
    "nvml_process_peak_bytes",
    "rss_over_start_bytes",
    "step_time_s",
    "energy_j",
)
"""Columns of the grid before those of the workload. A column without any value is left out."""
_OWN_METRICS: Final = 2
"""Number of a workload's own metrics in the grid, in addition to its headline. Only metrics where more is better."""
_DRAWN: Final = ("peak_tensor_bytes", "peak_allocated_bytes")
"""Columns with a bar under each figure."""
SUSPECT: Final = "a run suffered interference: its times are not reliable"


def outcome_cell(cell: CellSummary) -> Cell:
    """Return ``ok``, ``2 ok, 1 timeout`` with the reasons as a footnote, ``unreadable``, or ``not run``."""
    counts = cell.outcomes
    if not counts and cell.unreadable:
        return Cell("unreadable", note=plain(_why_unreadable(cell)), tone="warn")
    if not counts:
        return Cell("not run", note="no record of this cell", tone="warn")
    is_single = len(counts) == 1
    words = [OUTCOME_WORDS[kind] if is_single else f"{count} {OUTCOME_WORDS[kind]}" for kind, count in counts.items()]
    marked = sum(bool(record.marks) for record in cell.finished)
    words += [f"{marked} disturbed"] if marked else []
    words += [f"{len(cell.unreadable)} unreadable"] if cell.unreadable else []
    reasons = [*cell.reasons, *([SUSPECT] if marked else [])]
    reasons += [_why_unreadable(cell)] if cell.unreadable else []
    note = plain("; ".join(reasons)) or None
    return Cell(", ".join(words), note=note, tone="" if set(counts) == {Outcome.OK} else "warn")


def _why_unreadable(cell: CellSummary) -> str:
    """Return ``3 records cannot be read: schema 2 was written by another version of slr-bench``."""
    found = Counter(cell.unreadable)
    return "; ".join(f"{count} record{'s' if count > 1 else ''} cannot be read: {why}" for why, count in found.items())


def grid_section(cells: Sequence[CellSummary]) -> Section:
    """Return one table per workload with one row per cell."""
    workloads = dict.fromkeys(cell.entry.workload for cell in cells)
    tables = [_grid_table(name, [cell for cell in cells if cell.entry.workload == name]) for name in workloads]
    text = (
        "Every cell is one row. Values are medians over the processes that ended ok (n); running out of memory is a "
        "result. The brackets behind times hold min–max, and from 8 processes on a 95 % interval of the median."
    )
    return Section("grid", "Every cell", (text,), tuple(tables))


def _grid_table(workload: str, cells: Sequence[CellSummary]) -> Table:
    description = cells[0].description
    headline = [metric.metric for metric in description.headline_of(workload)]
    own = [name for name, text in description.metrics.items() if text.larger_is_better][:_OWN_METRICS]
    wanted = dict.fromkeys((*GRID_METRICS, *headline, *own))
    names = [name for name in wanted if any(cell.value(name) is not None for cell in cells)]
    most = {name: max(cell.value(name) or 0 for cell in cells) for name in names if name in _DRAWN}
    rows = []
    for cell in cells:
        arm = Cell(plain(cell.entry.arm, 40), link=anchor(cell) if cell.records else None)
        lead = (arm, Cell(coordinates_text(cell)), outcome_cell(cell))
        values = tuple(_with_bar(_grid_cell(cell, name), most.get(name)) for name in names)
        made = max(cell.entry.repeats, len(cell.records))
        count = Cell(f"{len(cell.finished)}/{made}", sort=len(cell.finished))
        rows.append(Row((*lead, *values, count), strong=cell.entry.is_own))
    columns = [Column("Arm", choices=True), Column("Setting"), Column("Outcome", choices=True)]
    columns += [
        Column(label(name, description), numeric=True, spare=name not in (*_DRAWN, *headline)) for name in names
    ]
    columns.append(Column("n", numeric=True))
    return with_shared_notes(Table(plain(workload, 60), tuple(columns), tuple(rows)))


def _with_bar(cell: Cell, most: float | None) -> Cell:
    return replace(cell, bar=Bar(0, cell.sort / most, "arm-1")) if most and cell.sort and cell.sort > 0 else cell


def _grid_cell(cell: CellSummary, name: str) -> Cell:
    reading = cell.readings.get(name)
    if reading is None:
        return Cell("–")
    if reading.summary is None:
        return unknown("; ".join(reading.reasons))
    text, detail = format_value(reading.value, reading.unit), ""
    if reading.summary.kind == "disagreement":
        return Cell(text, spread(reading.summary, reading.unit), reading.value, "warn")
    if reading.unit == "s" and reading.summary.n > 1:
        low, high = (format_value(limit, "s") for limit in (reading.summary.low, reading.summary.high))
        detail = f"[{low} – {high}]"
    changed = batch_change(cell, name)
    return Cell(text, plain(changed) if changed else _split_note(reading), reading.value, detail=detail)


def _split_note(reading: Reading) -> str | None:
    """Return a note where operators are split: peak/floor then refers to a lower floor."""
    names = dict.fromkeys(source.partition(SPLIT)[2] for source in reading.sources if SPLIT in source)
    return plain(f"split into parts, which lowers the floor: {', '.join(names)}") if names else None


def disagreements(cells: Sequence[CellSummary]) -> list[str]:
    """Return a warning for each deterministic metric that differs between the processes of a cell."""
    lines = []
    for cell in cells:
        for reading in cell.readings.values():
            if reading.summary is not None and reading.summary.kind == "disagreement":
                where = f"{plain(cell.entry.workload, 40)} {plain(cell.entry.arm, 40)} ({coordinates_text(cell)})"
                name = label(reading.name, cell.description)
                lines.append(
                    f"{name} of {where} must be equal in every process, but it is not: "
                    f"{spread(reading.summary, reading.unit)}. Do not rely on it before the cause is found."
                )
    return lines


def missing_section(cells: Sequence[CellSummary], records: Sequence[Record], problems: Sequence[str]) -> Section:
    """Return the cells that failed or have no figures, runs that are missing, and files that are no records."""
    failed, unmeasured = _failed_table(cells), _unmeasured_table(cells)
    known = {cell.entry.cell_id for cell in cells}
    strays = sorted({record.cell_id for record in records} - known)
    lines = [f"Unreadable and left out: {plain(problem)}" for problem in problems]
    lines += [f"Records of cell {plain(name, 60)} are left out: the grid does not have it." for name in strays]
    if not failed.rows and not lines and unmeasured.rows:
        lines = ["Nothing. The cells below ended with a result that has no figures."]
    elif not failed.rows and not lines:
        disturbed = sum(bool(record.marks) for cell in cells for record in cell.finished)
        suffix = f"; {disturbed} of the runs suffered interference while timed, listed below" if disturbed else ""
        lines = [f"Nothing: every cell ended ok{suffix}."]
    tables = tuple(table for table in (failed, unmeasured) if table.rows)
    return Section("missing", "What failed or is missing", tuple(lines), tables)


def _failed_table(cells: Sequence[CellSummary]) -> Table:
    found = [cell for cell in cells if _is_incomplete(cell)]
    return _outcome_table("Cells with a run that failed or is missing", found)


def _unmeasured_table(cells: Sequence[CellSummary]) -> Table:
    """Return the cells that ran out of memory, were skipped or are unsupported: these are results, too."""
    found = [cell for cell in cells if not _is_incomplete(cell) and set(cell.outcomes) != {Outcome.OK}]
    return _outcome_table("Results without figures", found)


def _is_incomplete(cell: CellSummary) -> bool:
    return bool(_absent(cell) > 0 or cell.unreadable or _FAILURES & cell.outcomes.keys())


def _absent(cell: CellSummary) -> int:
    return cell.entry.repeats - len(cell.records) - len(cell.unreadable)


def _outcome_table(title: str, cells: Sequence[CellSummary]) -> Table:
    rows = []
    for cell in cells:
        absent = _absent(cell)
        reasons = [*cell.reasons, *([_why_unreadable(cell)] if cell.unreadable else [])]
        reasons += [f"{absent} of {cell.entry.repeats} runs not made"] if absent > 0 else []
        texts = (plain(cell.entry.workload, 40), plain(cell.entry.arm, 40), coordinates_text(cell))
        rows.append(Row(tuple(map(Cell, (*texts, outcome_cell(cell).text, plain("; ".join(reasons)))))))
    titles = ("Workload", "Arm", "Setting", "Outcome", "Reason")
    return Table(title, tuple(map(Column, titles)), tuple(rows))


_FAILURES: Final = {Outcome.CRASH, Outcome.TIMEOUT, Outcome.INVALID_ENV}
"""Outcomes that are no results."""


_DISCARDED: Final = "Discarded and marked runs"
_LIMITS: Final = (
    f"Interference means: others took more than {FOREIGN_CPU_SHARE:.0%} of the cores while steps were timed, "
    f"{format_bytes(SWAPPED_BYTES)} or more was swapped, the clock jumped by {CLOCK_JUMP_S:g} s, or the GPU throttled "
    "or was shared. Such a run is discarded and repeated a few times. If the interference stays, the run is kept and "
    "marked. Its byte counts are still valid; its times are not."
)


def discards_section(cells: Sequence[CellSummary], discarded: Sequence[Record]) -> Section:
    """Return how many runs suffered interference, and every discarded or marked run with its reason."""
    kept = [record for cell in cells for record in cell.records if record.marks]
    summary = discards_line(len(discarded), len(kept))
    if summary is None:
        return Section("discarded", _DISCARDED, ("Nothing: no run suffered interference.", _LIMITS), (), is_folded=True)
    rows = [_discarded_row(cells, record, "discarded", record.reason or "") for record in discarded]
    rows += [_discarded_row(cells, record, "kept, marked", "; ".join(record.marks)) for record in kept]
    columns = (
        *map(Column, ("Workload", "Arm", "Setting", "Run", "Result")),
        Column("Its step time", numeric=True),
        Column("Reason"),
    )
    return Section(
        "discarded", _DISCARDED, (summary, _LIMITS), (Table("Runs with interference", columns, tuple(rows)),)
    )


def discards_line(discarded: int, kept: int) -> str | None:
    """Return how many runs were discarded and how many were kept; None where no run suffered interference."""
    parts = [f"{discarded} {'run was' if discarded == 1 else 'runs were'} discarded and repeated"] if discarded else []
    parts += [f"{kept} {'run' if kept == 1 else 'runs'} with interference kept and marked"] if kept else []
    return "; ".join(parts) + "." if parts else None


def _discarded_row(cells: Sequence[CellSummary], record: Record, result: str, why: str) -> Row:
    found = next((cell for cell in cells if cell.entry.cell_id == record.cell_id), None)
    arm, setting = (plain(found.entry.arm, 40), coordinates_text(found)) if found else ("–", plain(record.cell_id, 40))
    step_s = record.value("step_time_s")
    texts = (plain(record.workload, 40), arm, setting, f"{record.side}{record.repeat}", result)
    return Row((*map(Cell, texts), Cell(format_value(step_s, "s"), sort=step_s), Cell(plain(why))))


MATRIX_METRICS: Final = ("peak_tensor_bytes", "peak_allocated_bytes", "step_time_s")
"""Metrics with a table of their own, before the headline metrics of the workload."""
WIDEST: Final = 8
"""Largest number of columns of values, where the other side of the table is longer."""
_MATRIX_TEXT: Final = (
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
            names = dict.fromkeys((*MATRIX_METRICS, *headline))
            tables += [_matrix_table(own, name) for name in names if any(cell.value(name) for cell in own)]
    return Section("matrix", "Arms and axes", (_MATRIX_TEXT,), tuple(tables)) if tables else None


def _matrix_table(cells: Sequence[CellSummary], metric: str) -> Table:
    arms = list(dict.fromkeys(cell.entry.arm for cell in cells))
    cell_by_axes = {_axes_key(cell): cell for cell in cells}
    by_arm_and_axes = {(cell.entry.arm, _axes_key(cell)): cell for cell in cells}
    values = [value for cell in cells if (value := cell.value(metric)) is not None]
    text = cells[0].description.metric_text(metric)
    heat = Heat(min(values), max(values), text is not None and text.larger_is_better)

    def cell_at(arm: str, axes: str) -> Cell:
        base = by_arm_and_axes.get((arms[0], axes)) if arm != arms[0] else None
        return _matrix_cell(by_arm_and_axes.get((arm, axes)), base, metric, heat)

    title = f"{label(metric, cells[0].description)}, {plain(cells[0].entry.workload, 40)}"
    if len(arms) > min(WIDEST, len(cell_by_axes)):
        heads = (plain(axes_text(cell) or "own setting", 80) for cell in cell_by_axes.values())
        columns = (Column("Arm"), *(Column(head, numeric=True) for head in heads))
        rows = [Row((Cell(plain(arm, 40)), *(cell_at(arm, axes) for axes in cell_by_axes))) for arm in arms]
        return with_shared_notes(Table(title, columns, tuple(rows)))
    keys = list(dict.fromkeys(key for cell in cells for key in cell.entry.coordinates))
    rows = [
        Row((*(_axis_cell(cell, key) for key in keys), *(cell_at(arm, axes) for arm in arms)))
        for axes, cell in cell_by_axes.items()
    ]
    columns = (
        *(Column(plain(key.rsplit(".", 1)[-1], 40), choices=True) for key in keys),
        *(Column(plain(arm, 40), numeric=True) for arm in arms),
    )
    return with_shared_notes(Table(title, columns, tuple(rows), heads=len(keys)))


def _axes_key(cell: CellSummary) -> str:
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


def _matrix_cell(cell: CellSummary | None, base: CellSummary | None, metric: str, heat: Heat) -> Cell:
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
        note=SUSPECT if cell.is_disturbed and reading.unit == "s" else batch_change(cell, metric),
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
    changed = batch_change(base, metric) or batch_change(cell, metric)
    found = change(start, reading, is_disturbed=base.is_disturbed or cell.is_disturbed, other_batches=changed)
    return found.marked.replace(" as long", "")  # the caption names the metric

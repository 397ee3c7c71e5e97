"""The parts behind the headline that come cell by cell: the grid, the statistics, what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from slr_bench.compare.cells import CellSummary, Reading, pair, why_not_comparable
from slr_bench.record import SPLIT, Outcome, Record
from slr_bench.report.formats.table import Bar, Cell, Column, Row, Section, Table, unknown, with_shared_notes
from slr_bench.report.run_report.answers import Answer, Question
from slr_bench.report.text.cell_names import anchor, coordinates_text
from slr_bench.report.text.metrics import label
from slr_bench.report.text.words import OUTCOME_WORDS, describe, format_value, plain, spread

GRID_METRICS: Final = (
    "peak_tensor_bytes",
    "peak_over_floor",
    "peak_allocated_bytes",
    "nvml_process_peak_bytes",
    "rss_over_start_bytes",
    "step_time_s",
    "energy_j",
    "training_time_s",
    "accuracy_top1",
    "accuracy_top5",
)
"""Columns of the grid; one without any value is left out."""
_KEPT: Final = ("peak_tensor_bytes", "peak_allocated_bytes", "step_time_s", "training_time_s", "accuracy_top1")
"""Columns that a narrow terminal gives up last."""


_DRAWN: Final = ("peak_tensor_bytes", "peak_allocated_bytes")
"""Columns with a bar under each figure."""


def outcome_cell(cell: CellSummary) -> Cell:
    """``ok``, ``2 ok, 1 timeout`` with the reasons as a note, ``unreadable``, or ``not run``."""
    counts = cell.outcomes
    if not counts and cell.unreadable:
        return Cell("unreadable", note=plain(_why_unreadable(cell)), tone="warn")
    if not counts:
        return Cell("not run", note="no record of this cell", tone="warn")
    whole = len(counts) == 1
    words = [OUTCOME_WORDS[kind] if whole else f"{count} {OUTCOME_WORDS[kind]}" for kind, count in counts.items()]
    marked = sum(bool(record.marks) for record in cell.finished)
    words += [f"{marked} disturbed"] if marked else []
    words += [f"{len(cell.unreadable)} unreadable"] if cell.unreadable else []
    reasons = [*cell.reasons, *(["something else disturbed it: its times are suspect"] if marked else [])]
    reasons += [_why_unreadable(cell)] if cell.unreadable else []
    note = plain("; ".join(reasons)) or None
    return Cell(", ".join(words), note=note, tone="" if set(counts) == {Outcome.OK} else "warn")


def _why_unreadable(cell: CellSummary) -> str:
    """``3 records cannot be read: schema 2 was written by another version of slr-bench``."""
    found = Counter(cell.unreadable)
    return "; ".join(f"{count} record{'s' if count > 1 else ''} cannot be read: {why}" for why, count in found.items())


def grid_section(cells: Sequence[CellSummary]) -> Section:
    """Every cell one row, one table a workload."""
    workloads = dict.fromkeys(cell.entry.workload for cell in cells)
    tables = [_grid_table(name, [cell for cell in cells if cell.entry.workload == name]) for name in workloads]
    text = (
        "Every cell is one row. Values are medians over the processes that ended ok (n); running out of memory is a "
        "result. Of times the brackets hold min–max, from 8 processes on a 95 % interval of the median."
    )
    return Section("grid", "Every cell", (text,), tuple(tables))


def _grid_table(workload: str, cells: Sequence[CellSummary]) -> Table:
    names = [name for name in GRID_METRICS if any(cell.value(name) is not None for cell in cells)]
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
    columns += [Column(label(name), numeric=True, spare=name not in _KEPT) for name in names]
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
    return Cell(text, _split_note(reading), reading.value, detail=detail)


def _split_note(reading: Reading) -> str | None:
    """Peak/floor of a step with split operators stands on a lower floor than that of whole ones."""
    names = dict.fromkeys(source.partition(SPLIT)[2] for source in reading.sources if SPLIT in source)
    return plain(f"works on a part at a time, which lowers the floor: {', '.join(names)}") if names else None


def statistics_section(asked: Sequence[Question], found: Sequence[Sequence[Answer]]) -> Section:
    """The headline's figures with their spread, and what each comparison is worth."""
    rows = []
    for question, (base, *heads) in zip(asked, found, strict=True):
        for head in heads or [base]:
            rows.append(_statistics_row(question, base, head))
    columns = (
        Column("Figure"),
        Column("Arms"),
        Column("Reference", numeric=True),
        Column("Other", numeric=True),
        Column("Ratio", numeric=True),
        Column("What it allows"),
    )
    text = (
        "The process is the sampling unit. Traced bytes are counted, not estimated: all processes must agree. Of times "
        "the median is given, with min–max below 8 processes and no verdict; from 8 on with a 99 % interval of the "
        "paired ratio (signed-rank test) and a verdict if it excludes 1 and the difference is 1 % or more."
    )
    return Section("statistics", "How sure this is", (text,), (Table("Own settings", columns, tuple(rows)),))


def _statistics_row(question: Question, base: Answer, head: Answer) -> Row:
    arms = plain(head.arm if head is base else f"{head.arm} against {base.arm}", 80)
    start = (Cell(question.title), Cell(arms), _spread_cell(base.reading))
    if head is base:
        return Row((*start, Cell("–"), Cell("–"), Cell("one arm: nothing to compare with")))
    ratio, worth = "–", head.missing or base.missing or head.change.basis
    if base.reading and head.reading and why_not_comparable(base.reading, head.reading) is None:
        pairs = pair(base.reading, head.reading)
        if pairs is not None and head.reading.unit != "ratio":
            ratio = f"{pairs.ratio:.3f}"
            worth = head.change.basis if head.reading.unit == "bytes" else describe(pairs)
    return Row((*start, _spread_cell(head.reading), Cell(ratio), Cell(plain(worth))))


def _spread_cell(reading: Reading | None) -> Cell:
    if reading is None or reading.summary is None:
        return Cell("–")
    text = f"{format_value(reading.value, reading.unit)}; {spread(reading.summary, reading.unit)}"
    return Cell(text, tone="warn" if reading.summary.kind == "disagreement" else "")


def disagreements(cells: Sequence[CellSummary]) -> list[str]:
    """A warning for each cell whose deterministic metric differs between its processes."""
    lines = []
    for cell in cells:
        for reading in cell.readings.values():
            if reading.summary is not None and reading.summary.kind == "disagreement":
                where = f"{plain(cell.entry.workload, 40)} {plain(cell.entry.arm, 40)} ({coordinates_text(cell)})"
                lines.append(
                    f"{label(reading.name)} of {where} must be the same in every process and is not: "
                    f"{spread(reading.summary, reading.unit)}. Do not rely on it before the cause is found."
                )
    return lines


def missing_section(cells: Sequence[CellSummary], records: Sequence[Record], problems: Sequence[str]) -> Section:
    """Cells that did not end ok, runs not made, files that are no records."""
    tables = [table for table in (_failed_table(cells),) if table.rows]
    known = {cell.entry.cell_id for cell in cells}
    strays = sorted({record.cell_id for record in records} - known)
    lines = [f"Unreadable and left out: {plain(problem)}" for problem in problems]
    lines += [f"Records of cell {plain(name, 60)} are left out: the grid does not have it." for name in strays]
    if not tables and not lines:
        disturbed = sum(bool(record.marks) for cell in cells for record in cell.finished)
        but = f"; disturbed while it was timed: {disturbed} of the runs, listed below" if disturbed else ""
        lines = [f"Nothing: every cell ended ok{but}."]
    return Section("missing", "What failed or is missing", tuple(lines), tuple(tables))


def _failed_table(cells: Sequence[CellSummary]) -> Table:
    rows = []
    for cell in cells:
        absent = cell.entry.repeats - len(cell.records) - len(cell.unreadable)
        if set(cell.outcomes) == {Outcome.OK} and absent <= 0 and not cell.unreadable:
            continue
        reasons = [*cell.reasons, *([_why_unreadable(cell)] if cell.unreadable else [])]
        reasons += [f"{absent} of {cell.entry.repeats} runs not made"] if absent > 0 else []
        outcome = outcome_cell(cell)
        texts = (plain(cell.entry.workload, 40), plain(cell.entry.arm, 40), coordinates_text(cell), outcome.text)
        rows.append(Row((*(Cell(text) for text in texts), Cell(plain("; ".join(reasons))))))
    titles = ("Workload", "Arm", "Setting", "Outcome", "Reason")
    return Table("Cells that did not end ok in every run", tuple(Column(title) for title in titles), tuple(rows))


def unread_section(records: Sequence[Record]) -> Section | None:
    """Readings that could not be taken, with why; None where every meter could be read."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for record in records:
        for name, metric in record.metrics.items():
            if metric.reason is not None:
                counts[plain(record.workload, 40), name, metric.reason] += 1
    rows = [
        Row((Cell(workload), Cell(plain(label(name), 60)), Cell(plain(reason)), Cell(str(count), sort=count)))
        for (workload, name, reason), count in counts.items()
    ]
    if not rows:
        return None
    columns = (Column("Workload"), Column("Figure"), Column("Reason"), Column("Records", numeric=True))
    return Section("unread", "What could not be read here", (), (Table("Null readings", columns, tuple(rows)),))

"""Sections to judge and repeat a run: statistics, predictions, meters, cost, environment, and changes on the way."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from slr_bench.compare.cells import CellSummary, Reading, descriptions_of, pair, why_not_comparable
from slr_bench.compare.statistics import MIN_PROCESSES, center_interval, summarize
from slr_bench.files import flatten
from slr_bench.grid.description import WorkloadDescription, value_text
from slr_bench.record import Record, RunEvent
from slr_bench.report.formats.table import Cell, Column, Row, Section, Table
from slr_bench.report.run_report.headline import Headline, HeadlineColumn, HeadlineValue
from slr_bench.report.text.wording import coordinates_text, describe, in_order, label, metric_text, spread
from slr_bench.run.store import Manifest
from slr_bench.units import format_bytes, format_value, plain

_COST: Final = "What measuring cost"
COST_METRICS: Final = ("harness_s", "sampler_overhead_ratio", "sampler_cpu_ratio", "parent_cpu_ratio")
_MOST_RANKED: Final = 100
"""Number of runs up to which the interval of the centre is computed: exact ranks of 540 runs take 5 s."""


class MetricPair(NamedTuple):
    """A metric that predicts another one, and what lies between the two."""

    predicted: str
    measured: str
    meaning: str


PAIRS: Final = (
    MetricPair("floor_bytes", "peak_tensor_bytes", "how far the step is from the least that its operators need"),
    MetricPair("peak_tensor_bytes", "peak_cpu_allocator_bytes", "what operators allocate inside themselves"),
    MetricPair("peak_tensor_bytes", "peak_allocated_bytes", "workspaces, and rounding to blocks"),
    MetricPair("peak_allocated_bytes", "peak_reserved_bytes", "what the caching allocator holds in addition"),
    MetricPair("peak_reserved_bytes", "nvml_process_peak_bytes", "the CUDA context and other libraries"),
)
"""A prediction made before a run belongs here as a metric of its own, beside the metric that it predicts."""


def statistics_section(headline: Headline) -> Section:
    """Return the figures of the headline with their spread, and the verdict of each comparison."""
    rows = [
        _statistics_row(metric, base, head) for metric, (base, *heads) in headline.pairs for head in heads or [base]
    ]
    columns = (
        Column("Figure"),
        Column("Arms"),
        Column("Reference", numeric=True),
        Column("Other", numeric=True),
        Column("Ratio", numeric=True),
        Column("What it allows"),
    )
    text = (
        "The process is the sampling unit. Traced bytes are counted, not estimated: all processes must agree. Times "
        "are medians. Below 8 processes they stand with min–max and without a verdict. From 8 on they stand with a "
        "99 % interval of the paired ratio (signed-rank test). They have a verdict if the interval excludes 1 and the "
        "difference is 1 % or more."
    )
    return Section(
        "statistics", "How sure this is", (text,), (Table("Own settings", columns, tuple(rows)),), is_folded=True
    )


def _statistics_row(metric: HeadlineColumn, base: HeadlineValue, head: HeadlineValue) -> Row:
    arms = plain(head.arm if head is base else f"{head.arm} against {base.arm}", 80)
    start = (Cell(metric.title), Cell(arms), _spread_cell(base.reading))
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


def predicted_section(cells: Sequence[CellSummary]) -> Section | None:
    """Return one row per pair of metrics that some cell has both of; None where there is no such pair."""
    rows = [row for kind in PAIRS if (row := _predicted_row(kind, cells)) is not None]
    if not rows:
        return None
    columns = (
        Column("Predicted"),
        Column("Measured"),
        Column("Cells", numeric=True),
        Column("Measured over predicted", numeric=True),
        Column("Lowest – highest", numeric=True),
        Column("Highest in"),
        Column("What lies between them"),
    )
    text = (
        "Each figure counts more than the one before it: the operator floor, live tensors, the allocator, the driver. "
        "The closer a ratio is to 1, the better the prediction."
    )
    table = Table("Ratios over the cells", columns, tuple(rows))
    return Section("predicted", "Predicted against measured", (text,), (table,))


def _predicted_row(kind: MetricPair, cells: Sequence[CellSummary]) -> Row | None:
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


def methods_section(cells: Sequence[CellSummary], records: Sequence[Record]) -> Section:
    """Return meaning, source, quality and blind spot of every metric."""
    described = descriptions_of(cells)
    names = in_order((name for record in records for name in record.metrics), *described)
    rows = [_method_row(name, records, described) for name in names]
    titles = ("Figure", "Key", "What it is", "Read from", "Quality", "What it cannot know")
    text = (
        "exact: counted; measured: read from a clock or a counter; sampled: the largest of samples, so a lower bound; "
        "estimated: computed from a model."
    )
    table = Table("Meters", tuple(map(Column, titles)), tuple(rows))
    return Section("methods", "How each figure was measured", (text,), (table,), is_folded=True)


def _method_row(name: str, records: Sequence[Record], described: Sequence[WorkloadDescription]) -> Row:
    metrics = [record.metrics[name] for record in records if name in record.metrics]
    read = [metric for metric in metrics if metric.value is not None]
    sources = ", ".join(dict.fromkeys(metric.source for metric in read or metrics))
    qualities = ", ".join(dict.fromkeys(metric.quality for metric in read or metrics))
    text = metric_text(name, *described)
    meaning, blind = (text.meaning, text.blind_spot) if text else ("A metric of this workload.", "–")
    return Row(tuple(Cell(plain(part)) for part in (label(name, *described), name, meaning, sources, qualities, blind)))


def cost_section(records: Sequence[Record]) -> Section:
    """Return what measuring itself cost: the harness per cell, the sampler, the parent."""
    by_start = sorted(records, key=lambda record: record.started_at)
    rows = []
    for name in COST_METRICS:
        taken = [record.metrics[name] for record in by_start if name in record.metrics]
        readings = [(metric.value, metric.unit) for metric in taken if metric.value is not None]
        if name == "harness_s" and len(readings) > 1:
            # The first cell also pays for what all cells share (page cache, byte code), so it has its own row.
            (first, unit), *readings = readings
            median = Cell(format_value(first, unit), sort=first)
            rows.append(Row((Cell("harness, first cell"), median, Cell("–"), Cell("1"))))
        if readings:
            rows.append(_cost_row(name, [float(value) for value, _ in readings], readings[0][1]))
    if not rows:
        return Section("cost", _COST, ("No run measured its own cost.",), (), is_folded=True)
    columns = (Column("Cost"), Column("Median", True), Column("Range or interval"), Column("n", True))
    text = "n is the number of runs. Overheads include noise and can be below 0."
    return Section("cost", _COST, (text,), (Table("Cost of measuring", columns, tuple(rows)),), is_folded=True)


def _cost_row(name: str, values: Sequence[float], unit: str) -> Row:
    summary = summarize(values)
    limits = spread(summary, unit)
    if name == "sampler_overhead_ratio" and MIN_PROCESSES <= summary.n <= _MOST_RANKED:
        low, high = (format_value(limit, unit) for limit in center_interval(values))
        limits = f"{low} – {high} (95 % interval of the centre, n = {summary.n})"
    text = "harness, later cells" if name == "harness_s" else label(name)
    median = Cell(format_value(summary.median, unit), sort=summary.median)
    return Row((Cell(text), median, Cell(limits), Cell(str(summary.n))))


def environment_section(manifest: Manifest, records: Sequence[Record]) -> Section:
    """Return versions and machine as the runs recorded them; where runs differ, every value."""
    values: dict[str, dict[str, None]] = {}
    sources: list[Mapping[str, object]] = [manifest.environment, *(record.environment for record in records)]
    for environment in sources:
        for key, value in flatten(environment).items():
            values.setdefault(key, {})[value_text(value)] = None
    rows = [
        Row((Cell(plain(key, 80)), Cell(plain(" | ".join(texts)), tone="warn" if len(texts) > 1 else "")))
        for key, texts in sorted(values.items())
    ]
    rows.append(Row((Cell("source hash"), Cell(plain(manifest.source_hash, 100)))))
    rows.append(Row((Cell("configuration hash"), Cell(plain(manifest.config_hash, 100)))))
    table = Table("Environment", (Column("Key"), Column("Value")), tuple(rows))
    return Section("environment", "Environment", (), (table,), is_folded=True)


def unread_section(cells: Sequence[CellSummary], records: Sequence[Record]) -> Section | None:
    """Return the readings that could not be taken, with the reasons; None where every meter could be read."""
    described = descriptions_of(cells)
    counts: Counter[tuple[str, str, str]] = Counter()
    for record in records:
        for name, metric in record.metrics.items():
            if metric.reason is not None:
                counts[plain(record.workload, 40), name, metric.reason] += 1
    rows = [
        Row(
            (
                Cell(workload),
                Cell(plain(label(name, *described), 60)),
                Cell(plain(reason)),
                Cell(str(count), sort=count),
            )
        )
        for (workload, name, reason), count in counts.items()
    ]
    if not rows:
        return None
    columns = (Column("Workload"), Column("Figure"), Column("Reason"), Column("Records", numeric=True))
    table = Table("Null readings", columns, tuple(rows))
    return Section("unread", "What could not be read here", (), (table,), is_folded=True)


_CHANGES: Final = (
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
    rows = [_change_row(change) for change in _changes(cells)]
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
    return Section("events", "What trainings changed on the way", (_CHANGES,), (table,))


def _change_row(change: _Change) -> Row:
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

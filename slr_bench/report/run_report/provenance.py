"""The parts that let somebody else judge and repeat the run: meters, their cost, the environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from slr_bench.compare.statistics import MIN_PROCESSES, center_interval, summarize
from slr_bench.files import flatten
from slr_bench.record import Record
from slr_bench.report.formats.table import Cell, Column, Row, Section, Table
from slr_bench.report.text.metrics import METRICS, label
from slr_bench.report.text.setting import value_text
from slr_bench.report.text.words import format_value, plain, spread
from slr_bench.run.store import Manifest

COST_METRICS: Final = ("harness_s", "sampler_overhead_ratio", "sampler_cpu_ratio", "parent_cpu_ratio")

_MOST_RANKED: Final = 100
"""Runs up to which the centre's interval is computed: exact ranks of 540 took 5 s. Above, that of the median serves."""


def methods_section(records: Sequence[Record]) -> Section:
    """Metric, meaning, source, quality and blind spot of everything that was read."""
    names = dict.fromkeys(name for record in records for name in record.metrics)
    known = [name for name in METRICS if name in names]
    rows = [_method_row(name, records) for name in (*known, *sorted(set(names) - set(known)))]
    titles = ("Figure", "Key", "What it is", "Read from", "Quality", "What it cannot know")
    text = (
        "exact: counted; measured: read from a clock or a counter; sampled: the largest of samples, so a lower bound; "
        "estimated: computed from a model."
    )
    table = Table("Meters", tuple(Column(title) for title in titles), tuple(rows))
    return Section("methods", "How each figure was measured", (text,), (table,))


def _method_row(name: str, records: Sequence[Record]) -> Row:
    metrics = [record.metrics[name] for record in records if name in record.metrics]
    read = [metric for metric in metrics if metric.value is not None]
    sources = ", ".join(dict.fromkeys(metric.source for metric in read or metrics))
    qualities = ", ".join(dict.fromkeys(metric.quality for metric in read or metrics))
    text = METRICS.get(name)
    meaning, blind = (text.meaning, text.blind_spot) if text else ("A metric of this workload.", "–")
    return Row(tuple(Cell(plain(part)) for part in (label(name), name, meaning, sources, qualities, blind)))


def cost_section(records: Sequence[Record]) -> Section:
    """What measuring itself took: a cell's harness, the sampler, the parent."""
    by_start = sorted(records, key=lambda record: record.started_at)
    rows = []
    for name in COST_METRICS:
        taken = [record.metrics[name] for record in by_start if name in record.metrics]
        readings = [(metric.value, metric.unit) for metric in taken if metric.value is not None]
        if name == "harness_s" and len(readings) > 1:
            # The first cell also pays for what all share (page cache, byte code): it stands apart.
            (first, unit), *readings = readings
            median = Cell(format_value(first, unit), sort=first)
            rows.append(Row((Cell("harness, first cell"), median, Cell("–"), Cell("1"))))
        if readings:
            values = [float(value) for value, _ in readings]
            rows.append(_cost_row(name, values, readings[0][1]))
    columns = (Column("Cost"), Column("Median", True), Column("Range or interval"), Column("n", True))
    if not rows:
        return Section("cost", "What measuring cost", ("No run measured its own cost.",), ())
    text = "n counts runs. Overheads include noise and can be below 0."
    return Section("cost", "What measuring cost", (text,), (Table("Cost of measuring", columns, tuple(rows)),))


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
    """Versions and machine as the runs saw them; a key that differs between runs shows every value."""
    seen: dict[str, list[str]] = {}
    sources: list[Mapping[str, object]] = [manifest.environment, *(record.environment for record in records)]
    for environment in sources:
        for key, value in flatten(environment).items():
            texts = seen.setdefault(key, [])
            if (text := value_text(value)) not in texts:
                texts.append(text)
    rows = [
        Row((Cell(plain(key, 80)), Cell(plain(" | ".join(texts)), tone="warn" if len(texts) > 1 else "")))
        for key, texts in sorted(seen.items())
    ]
    rows.append(Row((Cell("source hash"), Cell(plain(manifest.source_hash, 100)))))
    rows.append(Row((Cell("configuration hash"), Cell(plain(manifest.config_hash, 100)))))
    table = Table("Environment", (Column("Key"), Column("Value")), tuple(rows))
    return Section("environment", "Environment", (), (table,))

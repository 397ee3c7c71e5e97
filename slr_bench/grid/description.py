"""A workload's description of itself: its unit, its batch, its headline metrics and the meaning of its metrics.

Reports and commands read the description from the workload's spec. If the workload of a run directory is not
installed, `GENERIC` stands in for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from slr_bench.files import lookup
from slr_bench.units import plain

_KEY: Final = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class MetricText:
    """The name of a metric, its meaning, and what it cannot show."""

    label: str
    meaning: str
    blind_spot: str
    compares_as: Literal["traced", "learned", "count"] | None = None
    """Condition for comparing two values: ``traced`` equal versions of torch and of the tracing rules, ``learned``
    equal data, ``count`` none. None: bytes need the same host, and any other metric is treated as a time."""
    larger_is_better: bool = False


@dataclass(frozen=True)
class HeadlineMetric:
    """A column of the table at the top of a report."""

    metric: str
    title: str
    optional: bool = False
    """Leave the column out if no arm has a value (for example GPU memory on a machine without a GPU)."""


@dataclass(frozen=True, kw_only=True)
class WorkloadDescription:
    """Facts about a workload that reports and commands need. Every field has a default and can be written as JSON."""

    unit: str = "sample"
    """Singular noun of what a step processes: ``clip``, ``image``, ``token``, ``sample``. Its plural ends in s."""
    micro_batches: str | None = None
    """Dotted key of the number of micro-batches per step. Micro-batches are equal pieces of work that each begin in the
    phase ``load``. A prediction traces two and computes the others from them; without this key it traces all."""
    micro_batch: str | None = None
    """Dotted key of the number of units per micro-batch. A plan keeps the product of the two keys."""
    input_line: str = ""
    """Describes the input of a step, with keys in braces: ``images of {data.size}×{data.size} pixels``. It is left out
    if the setting lacks one of the keys."""
    setting_line: tuple[str, ...] = ()
    """Further parts of the line that describes a setting, such as ``{precision}`` or ``recompute {recompute}``."""
    headline: tuple[HeadlineMetric, ...] = ()
    """Metrics at the top of a report, in order. If there are none: memory, step time and accuracy."""
    accuracy_metric: str | None = None
    """The metric that judges a technique which changes the result."""
    metrics: Mapping[str, MetricText] = field(default_factory=dict)
    """The meaning of metrics that only this workload has."""
    report_order: int = 0
    """Workloads with a smaller number come first in a report. A negative number also puts it into the charts."""

    @property
    def batch_keys(self) -> tuple[str, str] | None:
        """The keys of the size and the number of micro-batches; None if the workload does not name both."""
        if self.micro_batch is None or self.micro_batches is None:
            return None
        return self.micro_batch, self.micro_batches

    @property
    def throughput_metric(self) -> str:
        """The record's name for units per second, such as ``throughput_images_per_s``."""
        return f"throughput_{self.unit}s_per_s"

    def metric_text(self, metric: str) -> MetricText | None:
        """Return what a metric of this workload means; None if it is no metric of its own."""
        if metric == self.throughput_metric:
            label = f"{self.unit}s per second"
            meaning = f"{label[0].upper()}{label[1:]} at the median step time."
            return MetricText(label, meaning, "Loading of data.", larger_is_better=True)
        return self.metrics.get(metric)

    def effective_batch(self, setting: Mapping[str, Any]) -> int | None:
        """Return the number of units that the optimizer uses per step; None if the setting does not say."""
        sizes = [lookup(setting, key) for key in self.batch_keys or ()]
        if not sizes or not all(isinstance(size, int) for size in sizes):
            return None
        return int(sizes[0] * sizes[1])

    def describe(self, setting: Mapping[str, Any]) -> str:
        """Return the line that describes a setting: ``effective batch 32 = 8 × 4 micro-batches, bf16``."""
        parts = [_filled(part, setting) for part in self.setting_line]
        batch = self.effective_batch(setting)
        if batch is not None:
            micro, steps = (lookup(setting, key) for key in self.batch_keys or ())
            parts = [f"effective batch {batch} = {micro} × {steps} micro-batches", *parts]
        return ", ".join(part for part in parts if part)

    def describe_input(self, setting: Mapping[str, Any]) -> str:
        """Return what a step takes as input; empty if the workload or the setting does not say."""
        return _filled(self.input_line, setting)

    def headline_of(self, workload: str) -> tuple[HeadlineMetric, ...]:
        """Return the headline metrics; for a workload that names none, memory, step time and accuracy."""
        if self.headline:
            return self.headline
        name = plain(workload, 30)
        standard = (
            HeadlineMetric("peak_tensor_bytes", f"Memory of {name}"),
            HeadlineMetric("peak_allocated_bytes", f"GPU memory allocated of {name}", optional=True),
            HeadlineMetric("step_time_s", f"Step time of {name}"),
        )
        if self.accuracy_metric is None:
            return standard
        return (*standard, HeadlineMetric(self.accuracy_metric, f"Accuracy of {name}", optional=True))


GENERIC: Final = WorkloadDescription()
"""Stands in for a workload that is not installed."""


def value_text(value: Any) -> str:
    """Return a setting's value as YAML writes it: ``bf16``, ``true``, ``[1, 2, 4]``."""
    return plain(value if isinstance(value, str) else json.dumps(value), 80)


def _filled(template: str, setting: Mapping[str, Any]) -> str:
    """Replace the keys in braces by their values; empty if the setting lacks one."""
    values = {key: lookup(setting, key) for key in _KEY.findall(template)}
    if any(value is None for value in values.values()):
        return ""
    return _KEY.sub(lambda match: value_text(values[match[1]]), template)

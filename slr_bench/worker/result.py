"""What was measured, as the JSON values of the result line."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from slr_bench.live_bytes import OUTSIDE
from slr_bench.probes.sampler import Sampler
from slr_bench.record import Metric
from slr_bench.trace.attribution import Timeline
from slr_bench.worker.context import Context
from slr_bench.worker.traced_step import Traced


def metrics_json(metrics: dict[str, Metric]) -> dict[str, Any]:
    """Metric name -> its fields."""
    return {name: metric.model_dump() for name, metric in metrics.items()}


def phases_json(
    context: Context, traced: Traced | None, cuda_peaks: Mapping[str, Mapping[str, int]] = MappingProxyType({})
) -> dict[str, Any]:
    """Time, traced peak and torch's own CUDA peaks by phase."""
    spans = context.phase.spans
    peaks = traced.breakdown.by_phase if traced else {}
    names = dict.fromkeys([*(span.name for span in spans), *(name for name in peaks if name != OUTSIDE)])
    return {
        name: {
            "duration_s": context.phase.total_s(name),
            "count": sum(span.name == name for span in spans),
            "peak_tensor_bytes": peaks.get(name),
            **{f"peak_{kind}_bytes": peak for kind, peak in cuda_peaks.get(name, {}).items()},
        }
        for name in names
    }


def samples_json(
    sampler: Sampler | None, context: Context, traced: Traced | None, details: dict[str, Any] | None = None
) -> dict[str, Any]:
    """For the report: RAM and GPU memory over time, live bytes over the traced step, its peak by module; details."""
    series: dict[str, Any] = {"columns": ["rss_bytes", "nvml_process_bytes", "nvml_device_bytes"]}
    if sampler:
        series |= {"times_s": [round(time_s, 4) for time_s in sampler.times_s], "rows": sampler.rows}
    series["phases"] = [span._asdict() for span in context.phase.spans]
    series["traced"] = None
    if traced:
        series["traced"] = timeline_json(traced.breakdown.timeline) | {"by_module": traced.breakdown.by_module}
    if details is not None:
        series["details"] = details
    return series


def timeline_json(timeline: Timeline) -> dict[str, Any]:
    """Live bytes over the operators of the step, in all and by category."""
    return {
        "operators": timeline.operators,
        "live_bytes": [sum(values) for values in zip(*timeline.by_category.values(), strict=True)],
        "phase": timeline.phase,
        "by_category": timeline.by_category,
    }

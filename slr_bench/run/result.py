"""What was measured, as the JSON values of the result line."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from slr_bench.probes.sampler import Sampler
from slr_bench.record import Metric
from slr_bench.run.context import Context
from slr_bench.trace.tracer import OUTSIDE, LiveBytes

_TIMELINE_POINTS = 400


def metrics_json(metrics: dict[str, Metric]) -> dict[str, Any]:
    """Metric name -> its fields."""
    return {name: metric.model_dump() for name, metric in metrics.items()}


def phases_json(
    context: Context, tracer: LiveBytes | None, cuda_peaks: Mapping[str, Mapping[str, int]] = MappingProxyType({})
) -> dict[str, Any]:
    """Time, traced peak and torch's own CUDA peaks by phase."""
    spans = context.phase.spans
    peaks = tracer.peak_by_phase if tracer else {}
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


def samples_json(sampler: Sampler | None, context: Context, tracer: LiveBytes | None) -> dict[str, Any]:
    """Time series for the report: RAM and GPU memory over time, live bytes over the traced step."""
    series: dict[str, Any] = {"columns": ["rss_bytes", "nvml_process_bytes", "nvml_device_bytes"]}
    if sampler:
        series |= {"times_s": [round(time_s, 4) for time_s in sampler.times_s], "rows": sampler.rows}
    series["phases"] = [span._asdict() for span in context.phase.spans]
    series["traced"] = _thin(tracer.timeline) if tracer else None
    return series


def _thin(timeline: list[tuple[int, str]]) -> dict[str, Any]:
    """At most ``_TIMELINE_POINTS`` points; each is the largest of its stretch, so the peak stays."""
    stride = max(1, -(-len(timeline) // _TIMELINE_POINTS))
    points = [max(timeline[start : start + stride]) for start in range(0, len(timeline), stride)]
    return {
        "operators": len(timeline),
        "live_bytes": [live for live, _ in points],
        "phase": [name for _, name in points],
    }

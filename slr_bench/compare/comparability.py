"""Decide per metric what compares with what. Different commits always compare.

The facts that a metric depends on, besides the setting, must be the same on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from slr_bench.compare.cells import CellSummary, Reading, why_not_comparable
from slr_bench.grid.description import GENERIC, WorkloadDescription

HARNESS: Final = frozenset({"harness_s", "parent_cpu_ratio", "sampler_cpu_ratio", "sampler_overhead_ratio"})
"""The cost of measuring. It is no property of the setting and is never compared."""


class PairingKind(Enum):
    """Kinds of measurement that produced the two sides."""

    ONE_RUN = "in one run directory: same source, same environment, interleaved processes"
    INTERLEAVED = "interleaved on one machine, each side in its own environment"
    APART = "at two different times"


@dataclass(frozen=True)
class Family:
    """Metrics that depend on the same facts."""

    name: str
    needs: tuple[str, ...] = ()
    """Keys of the environment that must be recorded and equal."""
    options: tuple[str, ...] = ()
    """Keys that must be equal if they are recorded; a missing key means the default."""
    interleaved: bool = False
    """Only values from one interleaved measurement compare."""


_ALLOCATOR: Final = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_TRACED: Final = Family("traced", ("torch", "torchvision", "trace_rules"))
_CPU_ALLOCATOR: Final = Family("CPU allocator", ("torch", "torchvision", "cpu", "threads"))
_CUDA: Final = Family("CUDA allocator", ("torch", "torchvision", "cuda", "cudnn", "gpu"), _ALLOCATOR)
_NVML: Final = Family("NVML", ("gpu", "driver"))
_HOST: Final = Family("host", ("isolation", "system"), ("MALLOC_ARENA_MAX",))
_LEARNED: Final = Family("learned", ("data_fingerprint",))
_COUNT: Final = Family("count")
_TIME: Final = Family("time", interleaved=True)
_BY_NAME: Final = {
    "peak_tensor_bytes": _TRACED,
    "floor_bytes": _TRACED,
    "peak_over_floor": _TRACED,
    "flops_per_step": _TRACED,
    "peak_cpu_allocator_bytes": _CPU_ALLOCATOR,
    "peak_allocated_bytes": _CUDA,
    "peak_requested_bytes": _CUDA,
    "peak_reserved_bytes": _CUDA,
    "nvml_process_peak_bytes": _NVML,
    "nvml_device_peak_bytes": _NVML,
    "parameters": _COUNT,
}
_BY_KIND: Final = {family.name: family for family in (_TRACED, _LEARNED, _COUNT)}


def is_accuracy(metric: str, description: WorkloadDescription = GENERIC) -> bool:
    """Return whether a metric is an accuracy: the workload says so, or its name begins with ``accuracy``."""
    return metric == description.accuracy_metric or metric.startswith("accuracy")


def family(metric: str, unit: str, description: WorkloadDescription = GENERIC) -> Family:
    """Return the family of a metric.

    The workload can name the family of its own metrics. Without that, an unknown metric in bytes is treated like the
    host's memory, and any other like a time, which is the strictest family.
    """
    text = description.metric_text(metric)
    if text is not None and text.compares_as is not None:
        return _BY_KIND[text.compares_as]
    if metric not in _BY_NAME and is_accuracy(metric, description):
        return _LEARNED
    return _BY_NAME.get(metric) or (_HOST if unit == "bytes" else _TIME)


def larger_is_better(metric: str, unit: str, description: WorkloadDescription = GENERIC) -> bool:
    """Return whether more is better. It is for speeds and accuracies; for bytes, times and energy less is better."""
    text = description.metric_text(metric)
    if text is not None and text.larger_is_better:
        return True
    return unit == "1/s" or is_accuracy(metric, description)


def why_incomparable(base: CellSummary, head: CellSummary, metric: str, pairing: PairingKind) -> str | None:
    """Return the reason why a metric of two cells does not compare; None if it does."""
    before, after = base.readings.get(metric), head.readings.get(metric)
    if before is None:
        return f"base {_why_absent(base, metric)}"
    if after is None:
        return f"head {_why_absent(head, metric)}"
    return (
        why_not_comparable(before, after)
        or _why_batches_differ(base, head, metric)
        or _why_conditions_differ(base, head, before, pairing)
    )


def batch_change(cell: CellSummary, metric: str) -> str | None:
    """Return how a training changed its batches on the way, if the metric is a learned one; None otherwise."""
    reading = cell.readings.get(metric)
    if reading is None or family(metric, reading.unit, cell.description) is not _LEARNED:
        return None
    return cell.batch_change


def _why_batches_differ(base: CellSummary, head: CellSummary, metric: str) -> str | None:
    for side, cell in (("base", base), ("head", head)):
        if change := batch_change(cell, metric):
            return f"{side}: {change}"
    return None


def _why_absent(cell: CellSummary, metric: str) -> str:
    if cell.finished:
        return f"did not measure {metric}"
    if cell.unreadable and not cell.records:
        return f"has no readable record of this cell: {cell.unreadable[0]}"
    if not cell.records:
        return "has no record of this cell"
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in cell.outcomes.items())
    return f"has no run of this cell that ended ok ({outcomes}: {cell.reasons[0]})"


def _why_conditions_differ(base: CellSummary, head: CellSummary, reading: Reading, pairing: PairingKind) -> str | None:
    kind = family(reading.name, reading.unit, base.description)
    if pairing is PairingKind.ONE_RUN:
        return None
    if kind.interleaved:
        if pairing is PairingKind.APART:
            return (
                f"{kind.name} values from two separate runs show changes of the machine as well as of the code; "
                "measure both sides interleaved in one run"
            )
        return None
    for key in (*kind.needs, *kind.options):
        before, after = _recorded_values(base, key), _recorded_values(head, key)
        if before != after:
            return f"{kind.name} values need the same {key}, got {_text(before)} against {_text(after)}"
        if key in kind.needs and before == {None}:
            return f"{kind.name} values need the same {key}, which neither side recorded"
    return None


def _recorded_values(cell: CellSummary, key: str) -> set[object]:
    values = (record.environment.get(key) for record in cell.finished)
    return {value if isinstance(value, (str, int, float, bool, type(None))) else repr(value) for value in values}


def _text(values: set[object]) -> str:
    return " and ".join(sorted("not recorded" if value is None else str(value) for value in values))


def compared_metrics(base: CellSummary, head: CellSummary) -> dict[str, str]:
    """Return metric and unit of everything that a process of either side measured, without the harness's own cost."""
    readings = [*base.readings.values(), *head.readings.values()]
    return {reading.name: reading.unit for reading in readings if reading.by_repeat and reading.name not in HARNESS}

"""What compares with what, decided metric by metric. The commit is never a reason to refuse.

What a figure depends on besides the setting must be the same on both sides; which facts those are differs by meter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from slr_bench.compare.cells import CellSummary, Reading, why_not_comparable

HARNESS: Final = frozenset({"harness_s", "parent_cpu_ratio", "sampler_cpu_ratio", "sampler_overhead_ratio"})
"""What measuring cost: no property of the setting, never compared."""


class Bond(Enum):
    """How two sides came to be measured."""

    ONE_RUN = "one run directory: one source, one environment, processes in turn"
    IN_TURN = "measured in turn on one machine, each in its own environment"
    APART = "measured at two times"


@dataclass(frozen=True)
class Family:
    """Metrics that depend on the same facts."""

    name: str
    needs: tuple[str, ...] = ()
    """Keys of the environment that must be known and equal."""
    options: tuple[str, ...] = ()
    """Keys that must be equal where they are; absent means the default."""
    in_turn: bool = False
    """Only figures of one interleaved measurement compare."""


_ALLOCATOR: Final = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_TRACED: Final = Family("traced", ("torch", "torchvision", "trace_rules"))
_CPU_ALLOCATOR: Final = Family("CPU allocator", ("torch", "torchvision", "cpu", "threads"))
_CUDA: Final = Family("CUDA allocator", ("torch", "torchvision", "cuda", "cudnn", "gpu"), _ALLOCATOR)
_NVML: Final = Family("NVML", ("gpu", "driver"))
_HOST: Final = Family("host", ("isolation", "system"), ("MALLOC_ARENA_MAX",))
_LEARNED: Final = Family("learned", ("data_fingerprint",))
_COUNT: Final = Family("count")
_TIME: Final = Family("time", in_turn=True)
_BY_NAME: Final = {
    "peak_tensor_bytes": _TRACED,
    "floor_bytes": _TRACED,
    "peak_over_floor": _TRACED,
    "flops_per_step": _TRACED,
    "attention_bytes": _TRACED,
    "peak_cpu_allocator_bytes": _CPU_ALLOCATOR,
    "peak_allocated_bytes": _CUDA,
    "peak_requested_bytes": _CUDA,
    "peak_reserved_bytes": _CUDA,
    "nvml_process_peak_bytes": _NVML,
    "nvml_device_peak_bytes": _NVML,
    "train_loss": _LEARNED,
    **{f"accuracy_{kind}top{places}": _LEARNED for kind in ("", "per_class_") for places in (1, 5, 10)},
    "parameters": _COUNT,
}


def family(metric: str, unit: str) -> Family:
    """The family of a metric; one this toolkit does not know is judged by its unit: bytes by what the host's need,
    anything else like a time, which compares least."""
    return _BY_NAME.get(metric) or (_HOST if unit == "bytes" else _TIME)


def why_apart(base: CellSummary, head: CellSummary, metric: str, bond: Bond) -> str | None:
    """One sentence where the metric of two cells must not be set against each other; None where it may."""
    readings = base.readings.get(metric), head.readings.get(metric)
    for side, cell, reading in (("base", base, readings[0]), ("head", head, readings[1])):
        if reading is None:
            return f"{side} {_why_absent(cell, metric)}"
    before, after = readings
    assert before is not None
    assert after is not None
    return why_not_comparable(before, after) or _why_conditions_differ(base, head, before, bond)


def _why_absent(cell: CellSummary, metric: str) -> str:
    if cell.finished:
        return f"did not take {metric}"
    if cell.unreadable and not cell.records:
        return f"has no record of this cell that can be read: {cell.unreadable[0]}"
    if not cell.records:
        return "has no record of this cell"
    ends = ", ".join(f"{count} {outcome}" for outcome, count in cell.outcomes.items())
    return f"has no run of this cell that ended ok ({ends}: {cell.reasons[0]})"


def _why_conditions_differ(base: CellSummary, head: CellSummary, reading: Reading, bond: Bond) -> str | None:
    kind = family(reading.name, reading.unit)
    if bond is Bond.ONE_RUN:
        return None
    if kind.in_turn:
        if bond is Bond.APART:
            return (
                f"{kind.name} figures of two runs made at two times say more about the machine than about the code; "
                "measure both sides in turn in one run"
            )
        return None
    for key in (*kind.needs, *kind.options):
        before, after = _seen(base, key), _seen(head, key)
        if before != after:
            return f"{kind.name} figures need the same {key}, got {_text(before)} against {_text(after)}"
        if key in kind.needs and before == {None}:
            return f"{kind.name} figures need the same {key}, which neither side recorded"
    return None


def _seen(cell: CellSummary, key: str) -> set[object]:
    values: Iterable[object] = (record.environment.get(key) for record in cell.finished)
    return {value if isinstance(value, (str, int, float, bool, type(None))) else repr(value) for value in values}


def _text(values: set[object]) -> str:
    return " and ".join(sorted("not recorded" if value is None else str(value) for value in values))


def compared_metrics(base: CellSummary, head: CellSummary) -> dict[str, str]:
    """Metric -> unit of everything that a process of either side could read and that is no cost of the harness."""
    readings = [*base.readings.values(), *head.readings.values()]
    return {reading.name: reading.unit for reading in readings if reading.by_repeat and reading.name not in HARNESS}

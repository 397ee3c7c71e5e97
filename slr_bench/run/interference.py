"""Warnings about what disturbed a run from outside, and whether a disturbed run is repeated.

The warnings concern times: traced bytes are the same on a busy machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from slr_bench.execute.job import GpuFacts, MachineReadings
from slr_bench.record import Outcome, Record
from slr_bench.units import MIB, format_bytes

FOREIGN_CPU_SHARE: Final = 0.10
"""Largest share of the cores' time for others while steps are timed. On a quiet machine it stays under 0.03."""
SWAPPED_BYTES: Final = MIB
"""Bytes that the machine moved in or out of swap during the run, or bytes of the cell's processes in swap."""
CLOCK_JUMP_S: Final = 0.5
"""Difference of wall clock and monotonic clock. Only a clock that was set or a suspended machine makes them differ."""
FEWEST_REPETITIONS: Final = 3
SHARE_OF_REPETITIONS: Final = 1 / 3
"""This share of the runs of a grid is repeated, but at least ``FEWEST_REPETITIONS``; further runs get warnings only."""


def warnings_of(machine: MachineReadings, gpu: GpuFacts | None = None) -> tuple[str, ...]:
    """Return one sentence per disturbance of a run."""
    warnings = (
        _foreign_cpu(machine.foreign_cpu_share),
        _swapping(machine.swapped_bytes, machine.tree_swap_bytes or 0),
        _clock_jump(machine.clock_jump_s),
        *gpu_warnings(gpu or GpuFacts()),
    )
    return tuple(warning for warning in warnings if warning is not None)


def gpu_warnings(facts: GpuFacts) -> tuple[str, ...]:
    """Return the warnings about what the child observed of its GPU."""
    warnings = []
    if facts.throttle_reasons:
        warnings.append(f"GPU throttled: {', '.join(facts.throttle_reasons)}")
    if facts.other_processes:
        warnings.append(f"foreign GPU work: {facts.other_processes} other processes on the device")
    return tuple(warnings)


def _foreign_cpu(share: float | None) -> str | None:
    if share is None or share <= FOREIGN_CPU_SHARE:
        return None
    return (
        f"foreign CPU work: other processes took {share:.0%} of the cores while steps were timed "
        f"(limit {FOREIGN_CPU_SHARE:.0%})"
    )


def _swapping(moved_bytes: int, tree_bytes: int) -> str | None:
    if moved_bytes >= SWAPPED_BYTES:
        return f"swapping: the machine moved {format_bytes(moved_bytes)} in or out of swap during the run"
    if tree_bytes >= SWAPPED_BYTES:
        return f"swapping: {format_bytes(tree_bytes)} of the cell lay in swap"
    return None


def _clock_jump(jump_s: float) -> str | None:
    if abs(jump_s) < CLOCK_JUMP_S:
        return None
    return f"clock jump: the wall clock moved {jump_s:+.1f} s against the monotonic clock"


def as_discarded(record: Record) -> Record:
    """Return a disturbed run in the form in which it is kept aside."""
    return record.model_copy(update={"outcome": Outcome.INVALID_ENV, "reason": "; ".join(record.marks)})


def may_repeat(name: str, discarded: Iterable[Record], runs: int, reruns: int) -> bool:
    """Return whether a disturbed run is repeated: at most ``reruns`` times, and a limited share of the grid's ``runs``.

    Earlier repetitions are counted in the directory, so an interrupted grid does not start counting anew.
    """
    names = [record.name for record in discarded]
    return names.count(name) < reruns and len(names) < max(FEWEST_REPETITIONS, int(runs * SHARE_OF_REPETITIONS))

"""Was a run disturbed from outside? Facts read around it by the parent, and of the GPU by the child; no torch.

Marks concern times: traced bytes are the same on a busy machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from slr_bench.record import Outcome, Record
from slr_bench.run import kernel_counters as machine
from slr_bench.units import MIB, format_bytes

FOREIGN_CPU_SHARE: Final = 0.10
"""Of the cores' time while steps are timed. Kernel threads and daemons of a quiet machine stay under 0.03."""
SHORTEST_WINDOW_S: Final = 0.2
"""Below it the kernel's ticks (10 ms) are too coarse for a verdict on foreign work, and none is given."""
SWAPPED_BYTES: Final = MIB
"""In or out of swap on the machine during the run, or of the cell's tree lying in swap."""
CLOCK_JUMP_S: Final = 0.5
"""Wall clock against monotonic clock; slewing moves both alike, a set clock or a suspended machine only one."""
FEWEST_REPETITIONS: Final = 3
SHARE_OF_REPETITIONS: Final = 1 / 3
"""So many runs of a grid are made again (the fewest at least); later ones are only marked."""


@dataclass(frozen=True)
class Readers:
    """Where the facts come from; each gives None where it cannot know."""

    wall_s: Callable[[], float] = time.time
    monotonic_s: Callable[[], float] = time.monotonic
    busy_s: Callable[[], float | None] = machine.busy_s
    """CPU time of everybody on the cores that this process may use; time stolen by a hypervisor is others'."""
    own_s: Callable[[int], float | None] = machine.own_s
    """CPU time of the cell's tree and of the runner."""
    swapped_bytes: Callable[[], int | None] = machine.swapped_bytes
    """In and out of swap since boot."""
    tree_swap_bytes: Callable[[int], int | None] = machine.tree_swap_bytes
    """Of the cell's tree, lying in swap now."""
    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))


class _Window(NamedTuple):
    """The clocks at one edge of the timed steps."""

    monotonic_s: float
    busy_s: float | None
    own_s: float | None


class Disturbances:
    """Made as a run starts, told its phases, asked for its marks when it has ended."""

    def __init__(self, is_timed: Callable[[str], bool], readers: Readers) -> None:
        self._is_timed = is_timed
        self._read = readers
        self._wall_s, self._monotonic_s = self._read.wall_s(), self._read.monotonic_s()
        self._swapped_bytes = self._read.swapped_bytes()
        self._start: _Window | None = None
        self._end: _Window | None = None
        self._tree_swap_bytes: int | None = None

    def on_phase(self, phase: str, pid: int) -> None:
        """The cell ``pid`` has come to a phase: the facts are read at both edges of the timed steps, not within."""
        if self._is_timed(phase):
            if self._start is None:
                self._start = self._window(pid)
        elif self._start is not None and self._end is None:
            self._end = self._window(pid)
            self._tree_swap_bytes = self._read.tree_swap_bytes(pid)

    def marks(self, gpu_facts: Mapping[str, Any] | None) -> tuple[str, ...]:
        """What disturbed the run, a sentence each."""
        found = (self._foreign_cpu(), self._swapping(), self._clock_jump(), *gpu_marks(gpu_facts or {}))
        return tuple(mark for mark in found if mark is not None)

    def _window(self, pid: int) -> _Window:
        return _Window(self._read.monotonic_s(), self._read.busy_s(), self._read.own_s(pid))

    def _foreign_cpu(self) -> str | None:
        if self._start is None or self._end is None:  # not a step, or it ended early
            return None
        share = foreign_share(self._start, self._end, self._read.cores)
        if share is None or share <= FOREIGN_CPU_SHARE:
            return None
        return (
            f"foreign CPU work: other processes took {share:.0%} of the cores while steps were timed "
            f"(limit {FOREIGN_CPU_SHARE:.0%})"
        )

    def _swapping(self) -> str | None:
        now_bytes = self._read.swapped_bytes()
        moved_bytes = 0 if now_bytes is None or self._swapped_bytes is None else now_bytes - self._swapped_bytes
        if moved_bytes >= SWAPPED_BYTES:
            return f"swapping: the machine moved {format_bytes(moved_bytes)} in or out of swap during the run"
        if (self._tree_swap_bytes or 0) >= SWAPPED_BYTES:
            return f"swapping: {format_bytes(self._tree_swap_bytes)} of the cell lay in swap"
        return None

    def _clock_jump(self) -> str | None:
        wall_s, monotonic_s = self._read.wall_s() - self._wall_s, self._read.monotonic_s() - self._monotonic_s
        if abs(wall_s - monotonic_s) < CLOCK_JUMP_S:
            return None
        return f"clock jump: the wall clock moved {wall_s - monotonic_s:+.1f} s against the monotonic clock"


def foreign_share(start: _Window, end: _Window, cores: int) -> float | None:
    """Share of the cores' time that others took; None where it cannot be told.

    Both readings are counted in ticks: what that rounding can amount to is taken off.
    """
    window_s = end.monotonic_s - start.monotonic_s
    if None in (start.busy_s, start.own_s, end.busy_s, end.own_s) or window_s < SHORTEST_WINDOW_S:
        return None
    busy, own = (end.busy_s or 0) - (start.busy_s or 0), (end.own_s or 0) - (start.own_s or 0)
    return max(0.0, busy - own - 2 * machine.TICK_S * cores) / (window_s * cores)


def gpu_marks(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Marks from what the child saw of its GPU (``GpuWatch.facts``)."""
    marks = []
    if facts.get("throttle_reasons"):
        marks.append(f"GPU throttled: {', '.join(facts['throttle_reasons'])}")
    if facts.get("other_processes"):
        marks.append(f"foreign GPU work: {facts['other_processes']} other processes on the device")
    return tuple(marks)


class GpuWatch:
    """In the child: looks at the GPU between timed steps. ``nvml`` is a ``probes.nvml.Nvml``, or None without one."""

    def __init__(self, nvml: Any | None) -> None:
        self._throttled: dict[str, None] = {}
        self._others = 0
        self._ask_throttle = getattr(nvml, "throttle_reasons", lambda: None)
        self._ask_others = getattr(nvml, "other_pids", lambda: None)

    def look(self) -> None:
        """Read both facts now; what the driver does not say is no disturbance."""
        self._throttled |= dict.fromkeys(self._ask_throttle() or ())
        self._others = max(self._others, len(self._ask_others() or ()))

    def facts(self) -> dict[str, Any]:
        """All that was seen; a count of processes, not who they are."""
        return {"throttle_reasons": sorted(self._throttled), "other_processes": self._others}


def as_discarded(record: Record) -> Record:
    """A disturbed run as it is thrown away."""
    return record.model_copy(update={"outcome": Outcome.INVALID_ENV, "reason": "; ".join(record.marks)})


def may_repeat(name: str, discarded: Iterable[Record], runs: int, reruns: int) -> bool:
    """Whether a disturbed run is made again: ``reruns`` times itself, and a share of the grid's runs in all.

    Judged by what lies in the directory, so that an interrupted grid does not begin to count anew.
    """
    names = [record.name for record in discarded]
    return names.count(name) < reruns and len(names) < max(FEWEST_REPETITIONS, int(runs * SHARE_OF_REPETITIONS))

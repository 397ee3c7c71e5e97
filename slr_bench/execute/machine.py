"""Observes the machine while a job runs: CPU time, swap, out-of-memory kills and PSS."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from slr_bench.execute.job import TIMED_PREFIX, TRACE_PHASE, MachineReadings
from slr_bench.probes import host

PSS_PERIOD_S: Final = 2.0
"""One reading walks the page tables of the whole tree: 7-20 ms for a process with torch."""
SHORTEST_WINDOW_S: Final = 0.2
"""Below it the kernel's ticks (10 ms) are too coarse to judge the work of others."""
TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def busy_s(proc: Path = host.PROC, cores: Iterable[int] | None = None) -> float | None:
    """Return the CPU time of all processes since boot on ``cores``, by default those of this process.

    Idle time, iowait and guests are left out.
    """
    wanted = {f"cpu{number}" for number in (os.sched_getaffinity(0) if cores is None else cores)}
    try:
        lines = [line.split() for line in (proc / "stat").read_text().splitlines()]
        # user nice system idle iowait irq softirq steal (guest is in user already)
        ticks = [sum(map(int, words[1:4])) + sum(map(int, words[6:9])) for words in lines if words[0] in wanted]
    except (OSError, ValueError, IndexError):
        return None
    return sum(ticks) * TICK_S if len(ticks) == len(wanted) else None


def own_s(pid: int, proc: Path = host.PROC) -> float | None:
    """Return the CPU time of a process tree, its reaped children and this process; None if the tree has ended."""
    found = [seconds for one in host.tree_pids(pid, proc) if (seconds := _cpu_s(one, proc)) is not None]
    return sum(found) + time.process_time() if found else None


def _cpu_s(pid: int, proc: Path) -> float | None:
    try:
        words = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return sum(map(int, words[11:15])) * TICK_S  # utime stime cutime cstime
    except (OSError, ValueError):
        return None


def swapped_bytes(proc: Path = host.PROC) -> int | None:
    """Return the bytes moved in and out of swap since boot, or None if the kernel does not count them."""
    try:
        values = dict(line.split(" ", 1) for line in (proc / "vmstat").read_text().splitlines())
        return (int(values["pswpin"]) + int(values["pswpout"])) * _PAGE_BYTES
    except (OSError, KeyError, ValueError):
        return None


def tree_swap_bytes(pid: int, proc: Path = host.PROC) -> int | None:
    """Return the bytes of a process tree that lie in swap, or None if nothing could be read."""
    sizes = []
    for one in host.tree_pids(pid, proc):
        try:
            lines = (proc / str(one) / "status").read_text().splitlines()
        except OSError:  # ended
            continue
        sizes += [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSwap:")]
    return sum(sizes) if sizes else None


class OomKills(NamedTuple):
    """The number of out-of-memory kills so far."""

    total: int
    counter: str
    """Whose kills are counted: those of a cgroup or of the whole machine."""


def read_oom_kills(proc: Path = host.PROC, cgroup: Path = host.CGROUP) -> OomKills | None:
    """Return the count of this process's cgroup, which its children inherit, or else that of the machine.

    The count of a cgroup leaves out processes that were killed elsewhere on the machine. It needs kernel 4.13. Without
    either counter the result is None.
    """
    for path, counter in _cgroup_files(proc, cgroup):
        if (count := _read_oom_kill(path)) is not None:
            return OomKills(count, counter)
    machine = host.oom_kills(proc)
    return None if machine is None else OomKills(machine, "the machine's")


def increased(before: OomKills | None, after: OomKills | None) -> str | None:
    """Return the name of the counter if it rose in between."""
    if before is None or after is None or before.counter != after.counter or after.total <= before.total:
        return None
    return after.counter


def _cgroup_files(proc: Path, cgroup: Path) -> list[tuple[Path, str]]:
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    files = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        # In a container the path can be that of the host, which does not exist below the mount. The root is ours then.
        if controllers == "":
            directories = (cgroup / path.lstrip("/"), cgroup)
            files += [(directory / "memory.events", "its cgroup's") for directory in directories]
        elif "memory" in controllers.split(","):
            directories = (cgroup / "memory" / path.lstrip("/"), cgroup / "memory")
            files += [(directory / "memory.oom_control", "its cgroup's") for directory in directories]
    return files


def _read_oom_kill(path: Path) -> int | None:
    try:
        values = dict(line.split(" ", 1) for line in path.read_text().splitlines())
        return int(values["oom_kill"])
    except (OSError, KeyError, ValueError):
        return None


@dataclass(frozen=True)
class Readers:
    """Sources of the readings. Each returns None if it cannot know."""

    wall_s: Callable[[], float] = time.time
    monotonic_s: Callable[[], float] = time.monotonic
    own_cpu_s: Callable[[], float] = time.process_time
    """CPU time of the executor's process."""
    busy_s: Callable[[], float | None] = busy_s
    """CPU time of all processes on the cores of this process. Time stolen by a hypervisor counts as others'."""
    own_s: Callable[[int], float | None] = own_s
    """CPU time of the job's process tree and of the executor."""
    swapped_bytes: Callable[[], int | None] = swapped_bytes
    tree_swap_bytes: Callable[[int], int | None] = tree_swap_bytes
    pss_bytes: Callable[[int], int | None] = lambda pid: host.tree_pss_bytes(pid)
    """PSS of the job's process tree."""
    oom_kills: Callable[[], OomKills | None] = lambda: read_oom_kills()
    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))


class Clocks(NamedTuple):
    """The clocks at one end of the timed steps."""

    monotonic_s: float
    busy_s: float | None
    own_s: float | None


class JobMonitor:
    """Observes a running job from its executor: PSS, out-of-memory kills, and what disturbs the job.

    Create it just before the job starts and take its readings when the job has ended. PSS is not read while a step is
    timed, because a reading holds up the page faults of the process that it reads.
    """

    def __init__(self, readers: Readers, is_monitored: bool = True) -> None:
        """If ``is_monitored`` is false, only out-of-memory kills are counted."""
        self._read, self._is_monitored = readers, is_monitored
        self._oom_kills = readers.oom_kills()
        self._phase = ""
        self._peak_pss_bytes: int | None = None
        self._pss_cpu_s = 0.0
        self._start: Clocks | None = None
        self._end: Clocks | None = None
        self._tree_swap_bytes: int | None = None
        if is_monitored:
            self._wall_s, self._monotonic_s = readers.wall_s(), readers.monotonic_s()
            self._own_cpu_s, self._swapped_bytes = readers.own_cpu_s(), readers.swapped_bytes()

    def on_phase(self, phase: str, pid: int) -> None:
        """Note that the job, with process ``pid``, has entered a phase. Clocks are read around the timed steps."""
        self._phase = phase
        if not self._is_monitored:
            return
        if phase.startswith(TIMED_PREFIX):
            self._start = self._start or self._clocks(pid)
        elif self._start is not None and self._end is None:
            self._end = self._clocks(pid)
            self._tree_swap_bytes = self._read.tree_swap_bytes(pid)
        if phase == TRACE_PHASE:
            self._read_pss(pid)

    def on_tick(self, pid: int) -> None:
        """Read the PSS; the executor calls this every ``PSS_PERIOD_S``."""
        if self._is_monitored and not self._phase.startswith(TIMED_PREFIX):
            self._read_pss(pid)

    def readings(self) -> MachineReadings:
        """Return the readings of the whole job."""
        counter = increased(self._oom_kills, self._read.oom_kills())
        if not self._is_monitored:
            return MachineReadings(oom_counter=counter)
        wall_s, monotonic_s = self._read.wall_s() - self._wall_s, self._read.monotonic_s() - self._monotonic_s
        now_bytes = self._read.swapped_bytes()
        return MachineReadings(
            oom_counter=counter,
            peak_pss_bytes=self._peak_pss_bytes,
            executor_cpu_s=self._read.own_cpu_s() - self._own_cpu_s - self._pss_cpu_s,
            foreign_cpu_share=foreign_share(self._start, self._end, self._read.cores),
            swapped_bytes=0
            if None in (now_bytes, self._swapped_bytes)
            else (now_bytes or 0) - (self._swapped_bytes or 0),
            tree_swap_bytes=self._tree_swap_bytes,
            clock_jump_s=wall_s - monotonic_s,
        )

    def _clocks(self, pid: int) -> Clocks:
        return Clocks(self._read.monotonic_s(), self._read.busy_s(), self._read.own_s(pid))

    def _read_pss(self, pid: int) -> None:
        before_s = self._read.own_cpu_s()
        pss_bytes = self._read.pss_bytes(pid)
        self._peak_pss_bytes = max(filter(None, (self._peak_pss_bytes, pss_bytes)), default=None)
        self._pss_cpu_s += self._read.own_cpu_s() - before_s


def foreign_share(start: Clocks | None, end: Clocks | None, cores: int) -> float | None:
    """Return the share of the cores' time that other processes took, or None if it is unknown.

    Both readings are counted in ticks. The largest error of that rounding is subtracted.
    """
    if start is None or end is None:  # no step was timed, or the job ended early
        return None
    window_s = end.monotonic_s - start.monotonic_s
    if None in (start.busy_s, start.own_s, end.busy_s, end.own_s) or window_s < SHORTEST_WINDOW_S:
        return None
    busy, own = (end.busy_s or 0) - (start.busy_s or 0), (end.own_s or 0) - (start.own_s or 0)
    return max(0.0, busy - own - 2 * TICK_S * cores) / (window_s * cores)

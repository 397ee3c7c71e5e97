"""What the kernel counts about the machine and a process tree: CPU time and swap. Read by the parent around a run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from slr_bench.probes import host

TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def busy_s(proc: Path = host.PROC, cores: Iterable[int] | None = None) -> float | None:
    """CPU time since boot, of everybody, on ``cores`` (those of this process): all but idle, iowait and guests."""
    wanted = {f"cpu{number}" for number in (os.sched_getaffinity(0) if cores is None else cores)}
    try:
        lines = [line.split() for line in (proc / "stat").read_text().splitlines()]
        # user nice system idle iowait irq softirq steal (guest is in user already)
        ticks = [sum(map(int, words[1:4])) + sum(map(int, words[6:9])) for words in lines if words[0] in wanted]
    except (OSError, ValueError, IndexError):
        return None
    return sum(ticks) * TICK_S if len(ticks) == len(wanted) else None


def own_s(pid: int, proc: Path = host.PROC) -> float | None:
    """CPU time of a process tree, its reaped children included, and of this process; None if it has ended."""
    found = [seconds for one in host.tree_pids(pid, proc) if (seconds := _cpu_s(one, proc)) is not None]
    return sum(found) + time.process_time() if found else None


def _cpu_s(pid: int, proc: Path) -> float | None:
    try:
        words = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return sum(map(int, words[11:15])) * TICK_S  # utime stime cutime cstime
    except (OSError, ValueError):
        return None


def swapped_bytes(proc: Path = host.PROC) -> int | None:
    """Bytes in and out of swap since boot; None where the kernel does not count them."""
    try:
        values = dict(line.split(" ", 1) for line in (proc / "vmstat").read_text().splitlines())
        return (int(values["pswpin"]) + int(values["pswpout"])) * _PAGE_BYTES
    except (OSError, KeyError, ValueError):
        return None


def tree_swap_bytes(pid: int, proc: Path = host.PROC) -> int | None:
    """Bytes of a process tree that lie in swap; None if nothing could be read."""
    sizes = []
    for one in host.tree_pids(pid, proc):
        try:
            lines = (proc / str(one) / "status").read_text().splitlines()
        except OSError:  # ended
            continue
        sizes += [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSwap:")]
    return sum(sizes) if sizes else None

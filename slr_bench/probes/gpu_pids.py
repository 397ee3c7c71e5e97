"""Find this process among those that the GPU driver lists.

The driver counts in the machine's PID namespace, or (newer ones) in the caller's. In a container the two differ, and a
number can mean one process here and another there: an ambiguous result is a reason in words, not a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from slr_bench.probes.host import PROC

_MACHINES_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO in the kernel's include/linux/proc_ns.h: a fixed number
_SHARE = "share the host's PID namespace"

Listed = Mapping[int, int | None]
"""PID -> bytes that the driver counts for it, or None if it hides them."""


class PidSpace(NamedTuple):
    """PIDs of the own processes, and whether they are numbers of the machine's namespace."""

    pids: frozenset[int]
    is_machines: bool


def read_pid_space(proc: Path = PROC) -> PidSpace:
    """Read the numbers of this process in every namespace that this ``/proc`` can see (``NSpid``).

    In an ordinary container that is the inner number alone; the outer one is unknown inside.
    """
    pids: frozenset[int] = frozenset()
    try:
        for line in (proc / "self" / "status").read_text().splitlines():
            if line.startswith(("Pid:", "NSpid:")):
                pids = frozenset(map(int, line.split()[1:]))
    except OSError:
        return PidSpace(pids, False)
    return PidSpace(pids, is_machines_namespace(proc))


def is_machines_namespace(proc: Path = PROC) -> bool:
    """Return whether PIDs here are those of the whole machine; False also if the kernel does not say."""
    try:
        return (proc / "self" / "ns" / "pid").stat().st_ino == _MACHINES_NAMESPACE
    except OSError:
        return False


def own_bytes(listed: Listed, space: PidSpace) -> int | str:
    """Return the bytes of the own processes together, or why they are unknown."""
    own = listed.keys() & space.pids
    if not own:
        return why_not_listed(listed, space)
    if len(own) > 1 and not space.is_machines:
        return f"the driver lists PIDs {sorted(own)}: in a container one of them can be another process ({_SHARE})"
    sizes = [listed[pid] for pid in own]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return "the driver lists the process without its bytes, as it does under WSL and Windows"
    return sum(known)


def other_pids(listed: Listed, space: PidSpace) -> tuple[int, ...] | str:
    """Return the PIDs of all other processes, or why they are unknown."""
    own = listed.keys() & space.pids
    if space.is_machines or len(own) == 1:
        return tuple(sorted(listed.keys() - own))
    return why_not_listed(listed, space) if not own else f"PIDs {sorted(own)} are both this process's numbers"


def why_not_listed(listed: Listed, space: PidSpace) -> str:
    """Return why the driver's list has none of the own processes."""
    if space.is_machines:
        return "the driver does not list the process: it has not used this GPU"
    if not listed:
        return f"the driver lists no process: not used yet, or it hides them from this container ({_SHARE})"
    return f"the driver lists {len(listed)} PIDs, none this process's: it counts outside this container ({_SHARE})"

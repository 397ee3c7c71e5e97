"""Evidence that the kernel killed for want of memory, as close to the cell as it can be read."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from slr_bench.probes import host


class OomKills(NamedTuple):
    """Kills so far, and of whom they are counted."""

    total: int
    counter: str


def read_oom_kills(proc: Path = host.PROC, cgroup: Path = host.CGROUP) -> OomKills | None:
    """The count of this process's cgroup, which its cells inherit; else the machine's; None where neither is kept.

    A cgroup's count leaves out processes that were killed elsewhere on the machine. Kernel 4.13 on.
    """
    for path, counter in _cgroup_files(proc, cgroup):
        if (count := _read(path)) is not None:
            return OomKills(count, counter)
    machine = host.oom_kills(proc)
    return None if machine is None else OomKills(machine, "the machine's")


def rose(before: OomKills | None, after: OomKills | None) -> str | None:
    """The counter that rose in between; None without evidence."""
    if before is None or after is None or before.counter != after.counter or after.total <= before.total:
        return None
    return after.counter


def _cgroup_files(proc: Path, cgroup: Path) -> list[tuple[Path, str]]:
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        # In a container the path can be the host's, which is not there below the mount: then the root is ours.
        if controllers == "":
            places = (cgroup / path.lstrip("/"), cgroup)
            found += [(place / "memory.events", "its cgroup's") for place in places]
        elif "memory" in controllers.split(","):
            places = (cgroup / "memory" / path.lstrip("/"), cgroup / "memory")
            found += [(place / "memory.oom_control", "its cgroup's") for place in places]
    return found


def _read(path: Path) -> int | None:
    try:
        values = dict(line.split(" ", 1) for line in path.read_text().splitlines())
        return int(values["oom_kill"])
    except (OSError, KeyError, ValueError):
        return None

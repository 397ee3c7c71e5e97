"""The cgroups around a process, version 2 or 1, and the memory limits that they set.

Where they are mounted is read from ``mountinfo``: a container may see its own cgroup as the root, a nested one below
it, or the host's whole tree.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_NO_LIMIT_V1 = 1 << 60  # cgroup v1 writes a page-rounded 2**63 for "unlimited"


class CgroupLimit(NamedTuple):
    """One cgroup with a limit on memory."""

    used_bytes: int
    """Without the page cache that the kernel can drop."""
    limit_bytes: int
    source: str


class _Mount(NamedTuple):
    directory: Path
    root: str
    """Which cgroup is visible there, as the kernel names it."""


def memory_limits(proc: Path, cgroup: Path, pid: int | str = "self") -> list[CgroupLimit]:
    """Limits of the process's cgroup and of all above it, the innermost first; those without one are left out."""
    found = []
    for directory, limit_name, used_name, source in _directories(proc, cgroup, pid):
        limit, used = _read_int(directory / limit_name), _read_int(directory / used_name)
        if limit is None or used is None or not 0 < limit < _NO_LIMIT_V1:
            continue
        found.append(CgroupLimit(max(0, used - _droppable_cache(directory / "memory.stat")), limit, source))
    return found


def _directories(proc: Path, cgroup: Path, pid: int | str) -> Iterator[tuple[Path, str, str, str]]:
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return
    mounts = _mounts(proc)
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            kind, default, names = "v2", cgroup, ("memory.max", "memory.current", "cgroup v2")
        elif "memory" in controllers.split(","):
            kind, default = "v1", cgroup / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "cgroup v1")
        else:
            continue
        mount = mounts.get(kind, _Mount(default, "/"))
        directory = _below(mount, path)
        chain = [directory, *directory.parents]
        for place in chain[: chain.index(mount.directory) + 1]:
            yield (place, *names)


def _below(mount: _Mount, path: str) -> Path:
    """The process's own directory. A path outside the mount is the host's: then what is mounted is ours."""
    for base in (mount.root, "/"):
        with contextlib.suppress(ValueError):
            relative = PurePosixPath(path).relative_to(base)
            if ".." not in relative.parts and (mount.directory / relative).is_dir():
                return mount.directory / relative
    return mount.directory


def _mounts(proc: Path) -> dict[str, _Mount]:
    """``v2`` and the memory controller's ``v1`` hierarchy, where the asker sees them."""
    found: dict[str, _Mount] = {}
    with contextlib.suppress(OSError):
        for line in (proc / "self" / "mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            place, kind = before.split(), after.split()
            if len(place) < 5 or not kind:
                continue
            mount = _Mount(Path(_unescaped(place[4])), _unescaped(place[3]))
            if kind[0] == "cgroup2":
                found.setdefault("v2", mount)
            elif kind[0] == "cgroup" and "memory" in kind[-1].split(","):
                found.setdefault("v1", mount)
    return found


def _unescaped(text: str) -> str:
    """The kernel writes blanks in paths as ``\\040``."""
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")


def _read_int(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max": no limit here


def _droppable_cache(path: Path) -> int:
    """Of the whole subtree, like the use it goes from: v1 has a ``total_`` line for that, v2's line means that."""
    with contextlib.suppress(OSError):
        values = dict(line.split(" ", 1) for line in path.read_text().splitlines())
        return int(values.get("total_inactive_file", values.get("inactive_file", 0)))
    return 0

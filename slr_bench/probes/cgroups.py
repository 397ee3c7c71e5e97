"""The cgroups around a process, version 2 or 1, and the memory limits that they set.

Their mount points are read from ``mountinfo``: a container may have its own cgroup as the root, a nested one below it,
or the host's whole tree.
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
    """Bytes in use, without the page cache that the kernel can drop."""
    limit_bytes: int
    source: str


class _Mount(NamedTuple):
    directory: Path
    root: str
    """The cgroup that is visible there, by the kernel's name."""


def memory_limits(proc: Path, cgroup: Path, pid: int | str = "self") -> list[CgroupLimit]:
    """Return the limits of the process's cgroup and of its parents, innermost first; those without are left out."""
    limits = []
    for directory, limit_name, used_name, source in _directories(proc, cgroup, pid):
        limit, used = _read_int(directory / limit_name), _read_int(directory / used_name)
        if limit is None or used is None or not 0 < limit < _NO_LIMIT_V1:
            continue
        limits.append(CgroupLimit(max(0, used - _droppable_cache(directory / "memory.stat")), limit, source))
    return limits


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
        directory = _own_directory(mount, path)
        chain = [directory, *directory.parents]
        for parent in chain[: chain.index(mount.directory) + 1]:
            yield (parent, *names)


def _own_directory(mount: _Mount, path: str) -> Path:
    """Return the process's own directory. A path outside the mount is the host's; then it is the mount itself."""
    for base in (mount.root, "/"):
        with contextlib.suppress(ValueError):
            relative = PurePosixPath(path).relative_to(base)
            if ".." not in relative.parts and (mount.directory / relative).is_dir():
                return mount.directory / relative
    return mount.directory


def _mounts(proc: Path) -> dict[str, _Mount]:
    """Return the mounts of ``v2`` and of the memory controller's ``v1`` hierarchy that this process can see."""
    mounts: dict[str, _Mount] = {}
    with contextlib.suppress(OSError):
        for line in (proc / "self" / "mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            fields, kind = before.split(), after.split()
            if len(fields) < 5 or not kind:
                continue
            mount = _Mount(Path(_unescaped(fields[4])), _unescaped(fields[3]))
            if kind[0] == "cgroup2":
                mounts.setdefault("v2", mount)
            elif kind[0] == "cgroup" and "memory" in kind[-1].split(","):
                mounts.setdefault("v1", mount)
    return mounts


def _unescaped(text: str) -> str:
    """Undo the kernel's escapes in paths, such as ``\\040`` for a blank."""
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")


def _read_int(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max": no limit here


def _droppable_cache(path: Path) -> int:
    """Return the droppable page cache of the whole subtree: v1's ``total_`` line, or v2's only line."""
    with contextlib.suppress(OSError):
        values = dict(line.split(" ", 1) for line in path.read_text().splitlines())
        return int(values.get("total_inactive_file", values.get("inactive_file", 0)))
    return 0

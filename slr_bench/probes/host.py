"""RAM as the kernel counts it: high-water mark, RSS, PSS of a process tree, and the limit that applies.

The only module that imports psutil.
"""

from __future__ import annotations

import contextlib
import os
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import psutil

from slr_bench.errors import ProbeUnavailableError
from slr_bench.record import Metric

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_NO_LIMIT_V1 = 1 << 60  # cgroup v1 writes a page-rounded 2**63 for "unlimited"


class HostMemory(NamedTuple):
    """RAM in use and the limit that would kill: the cgroup's where there is one, else the machine's."""

    used_bytes: int
    limit_bytes: int
    source: str


def read_host_memory(proc: Path = PROC, cgroup: Path = CGROUP) -> HostMemory:
    """Used and limit of the tightest cgroup (v2, then v1) around this process, or of the machine.

    Page cache that the kernel can drop is not counted as used.
    """
    machine = psutil.virtual_memory()
    found = [HostMemory(machine.total - machine.available, machine.total, "machine")]
    for directory, limit_name, used_name, source in _cgroup_directories(proc, cgroup):
        limit = _read_int(directory / limit_name)
        used = _read_int(directory / used_name)
        if limit is None or used is None or limit >= _NO_LIMIT_V1:
            continue
        cache = _droppable_cache(directory / "memory.stat")
        found.append(HostMemory(max(0, used - cache), limit, source))
    return min(found, key=lambda memory: memory.limit_bytes)


def _cgroup_directories(proc: Path, cgroup: Path) -> list[tuple[Path, str, str, str]]:
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    found: list[tuple[Path, str, str, str]] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = cgroup, ("memory.max", "memory.current", "cgroup v2")
        elif "memory" in controllers.split(","):
            root, names = cgroup / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "cgroup v1")
        else:
            continue
        directory = root / path.lstrip("/")
        # Inside a container the path is the host's and does not exist below the mount: then the root is ours.
        chain = [directory, *directory.parents] if directory.is_dir() else [root]
        found += [(place, *names) for place in chain if place == root or root in place.parents]
    return found


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


def oom_kills(proc: Path = PROC) -> int | None:
    """Processes the kernel has killed for want of memory since boot; None where it does not count them."""
    with contextlib.suppress(OSError):
        for line in (proc / "vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


class RssReader:
    """Resident set of the process that made the reader. One read of an open file: cheap enough for 20 Hz."""

    def __init__(self, proc: Path = PROC) -> None:
        self._file = (proc / "self" / "statm").open("rb", buffering=0)

    def read(self) -> int:
        """Bytes resident now."""
        return int(os.pread(self._file.fileno(), 64, 0).split()[1]) * _PAGE_BYTES

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def rss_bytes(proc: Path = PROC) -> int:
    """Resident set of this process now."""
    with closing(RssReader(proc)) as reader:
        return reader.read()


def high_water_bytes(proc: Path = PROC) -> int:
    """The kernel's own peak of this process's resident set since the last reset.

    Raises:
        ProbeUnavailableError: the kernel does not report it.
    """
    try:
        for line in (proc / "self" / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError as error:
        raise ProbeUnavailableError(f"/proc/self/status cannot be read: {error.strerror}") from error
    raise ProbeUnavailableError("this kernel reports no VmHWM in /proc/self/status")


def reset_high_water(proc: Path = PROC) -> None:
    """Set the high-water mark to what is resident now.

    Raises:
        ProbeUnavailableError: the kernel refuses it (some containers do).
    """
    try:
        (proc / "self" / "clear_refs").write_text("5")
    except OSError as error:
        raise ProbeUnavailableError(f"/proc/self/clear_refs cannot be written: {error.strerror}") from error


def tree_pids(root_pid: int, proc: Path = PROC) -> list[int]:
    """The process and all its descendants that still live."""
    found, todo = [], [root_pid]
    while todo:
        pid = todo.pop()
        with contextlib.suppress(OSError):
            tasks = list((proc / str(pid) / "task").iterdir())
            found.append(pid)
            for task in tasks:
                with contextlib.suppress(OSError):  # a thread may have ended meanwhile
                    todo += map(int, (task / "children").read_text().split())
    return found


def tree_pss_bytes(root_pid: int, proc: Path = PROC) -> int | None:
    """Proportional set size of a process tree: shared pages counted once in all. None if nothing could be read.

    Costs 7-20 ms a torch process (the kernel walks its page tables).
    """
    sizes = [size for pid in tree_pids(root_pid, proc) if (size := _pss_bytes(pid, proc)) is not None]
    return sum(sizes) if sizes else None


def _pss_bytes(pid: int, proc: Path) -> int | None:
    with contextlib.suppress(OSError):  # ended, or another user's
        for line in (proc / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return None


class HostProbe:
    """Peak RSS of this process while open, from the kernel: exact even while the GIL is held."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._start_bytes: int | None = None
        self._peak_bytes: int | None = None
        self._reason = "the probe was not closed"

    def __enter__(self) -> Self:
        try:
            reset_high_water(self._proc)
            self._start_bytes = rss_bytes(self._proc)
        except (ProbeUnavailableError, OSError) as error:
            self._reason = str(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._peak_bytes = high_water_bytes(self._proc)
        except ProbeUnavailableError as failure:
            self._reason = str(failure)

    def readings(self) -> dict[str, Metric]:
        """``peak_rss_bytes`` and ``rss_over_start_bytes``."""
        source = "/proc/self/status VmHWM"
        names = ("peak_rss_bytes", "rss_over_start_bytes")
        if self._peak_bytes is None or self._start_bytes is None:
            return {name: Metric.unavailable("bytes", source, self._reason) for name in names}
        # A page can leave between reset and first read, so the kernel's mark may lie a page below the start.
        values = (self._peak_bytes, max(0, self._peak_bytes - self._start_bytes))
        return {
            name: Metric(value=value, unit="bytes", source=source, quality="exact")
            for name, value in zip(names, values, strict=True)
        }

"""RAM as the kernel counts it: high-water mark, RSS, PSS of a process tree, and the limit that applies.

The only module that imports psutil.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import psutil

from slr_bench.errors import ProbeUnavailableError
from slr_bench.probes.cgroups import memory_limits
from slr_bench.probes.tree import PROC as PROC
from slr_bench.probes.tree import tree_pids as tree_pids
from slr_bench.probes.tree import tree_pss_bytes as tree_pss_bytes
from slr_bench.record import Metric

CGROUP = Path("/sys/fs/cgroup")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_M_MMAP_THRESHOLD = -3  # malloc.h
_LARGE_BLOCK_BYTES = 2**20


class HostMemory(NamedTuple):
    """RAM in use and the limit that would kill: the cgroup's where there is one, else the machine's."""

    used_bytes: int
    limit_bytes: int
    source: str

    @property
    def left_bytes(self) -> int:
        """Up to the limit."""
        return max(0, self.limit_bytes - self.used_bytes)


def read_host_memory(proc: Path = PROC, cgroup: Path = CGROUP, pid: int | str = "self") -> HostMemory:
    """Used and limit of the tightest cgroup (v2, then v1) around a process, or of the machine.

    Page cache that the kernel can drop is not counted as used.
    """
    machine = psutil.virtual_memory()
    found = [HostMemory(machine.total - machine.available, machine.total, "machine")]
    found += [HostMemory(*limit) for limit in memory_limits(proc, cgroup, pid)]
    return min(found, key=lambda memory: memory.limit_bytes)


def oom_kills(proc: Path = PROC) -> int | None:
    """Processes the kernel has killed for want of memory since boot; None where it does not count them."""
    with contextlib.suppress(OSError):
        for line in (proc / "vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def cpu_flags(proc: Path = PROC) -> frozenset[str]:
    """What the processor says it can (``amx_bf16``, ``avx512_bf16``, ...); empty where the kernel does not tell."""
    with contextlib.suppress(OSError):
        for line in (proc / "cpuinfo").read_text().splitlines():
            name, _, flags = line.partition(":")
            if name.strip() in ("flags", "Features"):  # x86, ARM
                return frozenset(flags.split())
    return frozenset()


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


def give_heap_back() -> None:
    """Return to the kernel what the C library holds free: else it would be used without a trace in the resident set.
    Other libraries than glibc hold less, and have no such call."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def address_space_is_limited() -> bool:
    """Whether a resource limit counts what this process has mapped, used or not (``ulimit -d``, ``ulimit -v``)."""
    kinds = resource.RLIMIT_DATA, resource.RLIMIT_AS
    return any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in kinds)


def keep_large_blocks_apart() -> None:
    """From now on blocks of 1 MiB and more are mapped each for itself and go back to the kernel when they are freed.

    glibc lets that size grow to 32 MiB with what is freed; smaller blocks then share arenas, whose address space stays
    with the process: a limit on it (``RLIMIT_DATA``) is as full after a failed step as in it, and trimming does not
    help. Costs time: the kernel clears the pages of such blocks anew (training on a CPU, measured: 1.3 times as long).
    Other libraries than glibc are left as they are.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)


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

"""RAM as the kernel counts it: high-water mark, RSS and the limit that applies. The only module that imports psutil."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self

import psutil

from slr_bench.errors import ConfigError, ProbeUnavailableError
from slr_bench.probes.cgroups import memory_limits
from slr_bench.probes.tree import PROC as PROC
from slr_bench.probes.tree import tree_pids as tree_pids
from slr_bench.probes.tree import tree_pss_bytes as tree_pss_bytes
from slr_bench.record import Metric

CGROUP = Path("/sys/fs/cgroup")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_M_MMAP_THRESHOLD = -3  # malloc.h
_LARGE_BLOCK_BYTES = 2**20

Level = Literal["ok", "warning", "critical"]
LEVELS: tuple[Level, ...] = ("ok", "warning", "critical")


@dataclass(frozen=True)
class Thresholds:
    """Fractions of the used memory from which it is in short supply.

    Raises:
        ConfigError: not 0 < warning <= critical <= 1.
    """

    warning: float = 0.9
    critical: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.warning <= self.critical <= 1:
            raise ConfigError(
                f"thresholds warning {self.warning:g}, critical {self.critical:g}: they are fractions of the memory, "
                "0 < warning <= critical <= 1, like 0.9 and 0.95"
            )

    def level(self, fraction: float) -> Level:
        """Return the level of a fraction."""
        if fraction >= self.critical:
            return "critical"
        return "warning" if fraction >= self.warning else "ok"


class HostMemory(NamedTuple):
    """RAM in use, and the limit that applies: that of the tightest cgroup or of the machine."""

    used_bytes: int
    limit_bytes: int
    source: str

    @property
    def left_bytes(self) -> int:
        """Bytes left up to the limit."""
        return max(0, self.limit_bytes - self.used_bytes)


def read_host_memory(proc: Path = PROC, cgroup: Path = CGROUP, pid: int | str = "self") -> HostMemory:
    """Read use and limit of the tightest cgroup (v2, then v1) around a process, or of the machine.

    Page cache that the kernel can drop does not count as used.
    """
    machine = psutil.virtual_memory()
    limits = [HostMemory(machine.total - machine.available, machine.total, "machine")]
    limits += [HostMemory(*limit) for limit in memory_limits(proc, cgroup, pid)]
    return min(limits, key=lambda memory: memory.limit_bytes)


def oom_kills(proc: Path = PROC) -> int | None:
    """Return how many processes the kernel has killed for lack of memory since boot, or None if it does not count."""
    with contextlib.suppress(OSError):
        for line in (proc / "vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def cpu_flags(proc: Path = PROC) -> frozenset[str]:
    """Return the processor's features (``amx_bf16``, ``avx512_bf16``, ...), none if the kernel does not list them."""
    with contextlib.suppress(OSError):
        for line in (proc / "cpuinfo").read_text().splitlines():
            name, _, flags = line.partition(":")
            if name.strip() in ("flags", "Features"):  # x86, ARM
                return frozenset(flags.split())
    return frozenset()


class RssReader:
    """Resident set of the process that created the reader. One read of an open file is cheap enough for 20 Hz."""

    def __init__(self, proc: Path = PROC) -> None:
        self._file = (proc / "self" / "statm").open("rb", buffering=0)

    def read(self) -> int:
        """Return the bytes resident now."""
        return int(os.pread(self._file.fileno(), 64, 0).split()[1]) * _PAGE_BYTES

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def rss_bytes(proc: Path = PROC) -> int:
    """Return the resident set of this process."""
    with closing(RssReader(proc)) as reader:
        return reader.read()


def high_water_bytes(proc: Path = PROC) -> int:
    """Return the kernel's own peak of this process's resident set since the last reset.

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
    """Reset the high-water mark to the bytes resident now.

    Raises:
        ProbeUnavailableError: the kernel refuses it (some containers do).
    """
    try:
        (proc / "self" / "clear_refs").write_text("5")
    except OSError as error:
        raise ProbeUnavailableError(f"/proc/self/clear_refs cannot be written: {error.strerror}") from error


def give_heap_back() -> None:
    """Return the free memory of the C library to the kernel, so that its next use raises the resident set.

    Other libraries than glibc hold less, and have no such call.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def address_space_is_limited() -> bool:
    """Return whether a resource limit counts the mapped memory of this process (``ulimit -d``, ``ulimit -v``)."""
    kinds = resource.RLIMIT_DATA, resource.RLIMIT_AS
    return any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in kinds)


def keep_large_blocks_apart() -> None:
    """Map each block of 1 MiB and more separately from now on, so that it goes back to the kernel when it is freed.

    glibc raises that size up to 32 MiB as blocks are freed. Smaller blocks share arenas, whose address space stays with
    the process: a limit on it (``RLIMIT_DATA``) is as full after a failed step as in it, and trimming does not help.
    This costs time, as the kernel clears the pages of such blocks each time (training on a CPU, measured: 1.3 times as
    long). Other libraries than glibc are not changed.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)


class HostProbe:
    """Peak RSS of this process while open. The kernel counts it, so it is exact even while the GIL is held."""

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
        """Return ``peak_rss_bytes`` and ``rss_over_start_bytes``."""
        source = "/proc/self/status VmHWM"
        names = ("peak_rss_bytes", "rss_over_start_bytes")
        if self._peak_bytes is None or self._start_bytes is None:
            return {name: Metric.unavailable("bytes", source, self._reason) for name in names}
        # A page can leave between the reset and the first read, so the kernel's mark may be a page below the start.
        values = (self._peak_bytes, max(0, self._peak_bytes - self._start_bytes))
        return {
            name: Metric(value=value, unit="bytes", source=source, quality="exact")
            for name, value in zip(names, values, strict=True)
        }

"""Memory use while training, now and at its peak, and the reactions to full memory: advice, shedding, halving."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypedDict

import torch

from slr_bench.errors import ProbeUnavailableError
from slr_bench.probes.host import (
    LEVELS,
    HostMemory,
    Level,
    Thresholds,
    high_water_bytes,
    read_host_memory,
    reset_high_water,
    rss_bytes,
)
from slr_bench.probes.live import LiveReader
from slr_bench.units import GIB

REARM_BELOW = 0.05
"""Fraction by which use must fall below a threshold before its level is announced again."""
SETTLE_READINGS = 5
"""Readings without another action after an action: caches empty and processes end with a delay."""

Action = Callable[[], str | None]
"""Frees memory and describes it; returns None, and does nothing, if nothing is left to free."""


class GpuReading(TypedDict):
    """Use of the GPU in GiB; zeros without a GPU."""

    gpu_available: bool
    gpu_allocated: float
    gpu_reserved: float
    gpu_peak_allocated: float
    gpu_total: float
    gpu_percent: float
    """Use of the whole device at the peak of this process."""


class MemoryReading(GpuReading):
    """Use of RAM and GPU in GiB. ``ram_*`` is of the cgroup or the machine, as ``ram_source`` states."""

    ram_used: float
    ram_total: float
    ram_percent: float
    ram_peak_percent: float
    """Use if this process held what it held at its peak."""
    ram_source: str
    ram_over_warning: float
    """Use at the peak above the warning threshold."""
    ram_own: float | None
    """Part of the use at the peak that this process and its loader processes hold; None below the threshold."""
    ram_level: Level
    """Level at the peak."""
    gpu_level: Level
    level: Level
    """Level of the fuller memory."""
    is_ram_others: bool
    """True if other programs hold more than half of the RAM in use, and its level is not ``ok``."""
    is_gpu_others: bool
    """The same for the memory of the GPU."""


class OwnPeaks:
    """Memory peaks of this process. Their marks can be reset to measure what follows; earlier peaks are remembered.

    A meter around the training that reads the same marks reads only what came after the last reset.
    """

    def __init__(self) -> None:
        self._rss_before, self._gpu_before = 0, 0
        self._host_works = True

    def rss_bytes(self) -> int | None:
        """Return the kernel's high-water mark since the process began, or None if the kernel does not report it."""
        try:
            return max(self._rss_before, high_water_bytes())
        except ProbeUnavailableError:
            return None

    def rss_over_now_bytes(self) -> int:
        """Return the bytes resident at the peak since the last reset, above those resident now; 0 if unreadable."""
        if not self._host_works:
            return 0
        try:
            return max(0, high_water_bytes() - rss_bytes())
        except (ProbeUnavailableError, OSError):
            return 0

    def gpu_bytes(self, device: torch.device) -> int | None:
        """Return the peak of torch's allocator on a CUDA ``device`` since the process began; None for the CPU."""
        return max(self._gpu_before, torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None

    def reset(self) -> None:
        """Restart the marks from the current use. Some containers refuse it for RAM; its peaks are then not used."""
        if torch.cuda.is_initialized():
            self._gpu_before = max(self._gpu_before, torch.cuda.max_memory_allocated())
            torch.cuda.reset_peak_memory_stats()
        try:
            self._rss_before = max(self._rss_before, high_water_bytes())
            reset_high_water()
        except ProbeUnavailableError:
            self._host_works = False


def own_ram_reader() -> Callable[[], int]:
    """Return a function that returns the RAM of this process and its children: their PSS, or RSS if that is hidden."""
    reader = LiveReader(os.getpid())

    def read() -> int:
        reading = reader.read()
        assert reading is not None, "this process is alive"
        return reading.ram_bytes

    return read


class MemoryTracker:
    """Reads GPU and RAM use and compares it with two thresholds, fractions of the memory that may be used.

    Levels are those of the whole memory, whoever holds it. ``is_ram_others`` and ``is_gpu_others`` state whose it is.
    """

    def __init__(
        self,
        warning_threshold: float = 0.9,
        critical_threshold: float = 0.95,
        read_host: Callable[[], HostMemory] = read_host_memory,
        read_gpu: Callable[[], GpuReading] | None = None,
        peaks: OwnPeaks | None = None,
        read_own: Callable[[], int] | None = None,
    ) -> None:
        """``read_own`` returns the bytes that this process tree holds. It is called only at a level above ``ok``."""
        self.peaks = peaks or OwnPeaks()
        self._thresholds = Thresholds(warning_threshold, critical_threshold)
        self._read_host = read_host
        self._read_gpu = read_gpu or read_gpu_memory
        self._read_own = read_own or own_ram_reader()
        self._announced: Level = "ok"
        self._others_announced = False

    def check_memory(self) -> MemoryReading:
        """Read the memory now."""
        host = self._read_host()
        gpu = self._read_gpu()
        over_now_bytes = self.peaks.rss_over_now_bytes()
        peak_fraction = min(1.0, (host.used_bytes + over_now_bytes) / host.limit_bytes)
        ram_level = self._thresholds.level(peak_fraction)
        own_bytes = None if ram_level == "ok" else self._read_own() + over_now_bytes
        gpu_fraction = gpu["gpu_percent"] / 100
        gpu_level = self._thresholds.level(gpu_fraction)
        return {
            **gpu,
            "ram_used": host.used_bytes / GIB,
            "ram_total": host.limit_bytes / GIB,
            "ram_percent": 100 * host.used_bytes / host.limit_bytes,
            "ram_peak_percent": 100 * peak_fraction,
            "ram_source": host.source,
            "ram_over_warning": max(0.0, peak_fraction - self._thresholds.warning) * host.limit_bytes / GIB,
            "ram_own": None if own_bytes is None else own_bytes / GIB,
            "ram_level": ram_level,
            "gpu_level": gpu_level,
            "level": self._thresholds.level(max(peak_fraction, gpu_fraction)),
            "is_ram_others": own_bytes is not None and own_bytes < peak_fraction * host.limit_bytes / 2,
            "is_gpu_others": gpu_level != "ok" and gpu["gpu_peak_allocated"] < gpu_fraction * gpu["gpu_total"] / 2,
        }

    def doubling_fits(self, stats: MemoryReading) -> bool:
        """Return whether all memories stay below ``warning`` if a step needs twice as much above the idle use."""
        ram = 2 * stats["ram_peak_percent"] - stats["ram_percent"]
        over_idle = stats["gpu_peak_allocated"] - stats["gpu_allocated"]
        gpu = stats["gpu_percent"] + (100 * over_idle / stats["gpu_total"] if stats["gpu_total"] else 0.0)
        return bool(max(ram, gpu) < 100 * self._thresholds.warning)

    def advice(self, stats: MemoryReading) -> str | None:
        """Return a line when ``stats`` reach a level that was not announced yet, otherwise None."""
        fraction = max(stats["ram_peak_percent"], stats["gpu_percent"]) / 100
        while self._announced != "ok" and fraction < getattr(self._thresholds, self._announced) - REARM_BELOW:
            self._announced = LEVELS[LEVELS.index(self._announced) - 1]
        self._others_announced = self._others_announced and self._announced != "ok"
        level = stats["level"]
        if LEVELS.index(level) <= LEVELS.index(self._announced):
            return None
        self._announced = level
        fuller = fuller_memory(stats)
        line = f"memory {level}: {fuller.text}"
        if fuller.is_others:
            is_new, self._others_announced = not self._others_announced, True
            return f"{line}; close them if you can, the training keeps its batches" if is_new else None
        if level == "warning":
            return line
        cure = f"{line}; use a smaller training.batch_size with more training.gradient_accumulation_steps"
        if fuller.name != "RAM":
            return cure
        return f"{cure}, fewer data.num_workers or a smaller model.cache_size_limit_mb"


class FullerMemory(NamedTuple):
    """The fuller one of RAM and GPU memory, at the peak of the last step; in GiB."""

    name: str
    percent: float
    used: float
    own: float | None
    """Held by this training; None for RAM below the warning threshold."""
    is_others: bool

    @property
    def text(self) -> str:
        """``RAM is 92 % full``; if it is full of other programs, also how much they hold."""
        line = f"{self.name} is {self.percent:.0f} % full"
        if not self.is_others or self.own is None:
            return line
        return f"{line}, {self.used - self.own:.1f} of {self.used:.1f} GiB by other programs"


def fuller_memory(stats: MemoryReading) -> FullerMemory:
    """Return the fuller one of the two memories."""
    if stats["gpu_percent"] > stats["ram_peak_percent"]:
        used = stats["gpu_percent"] / 100 * stats["gpu_total"]
        return FullerMemory(
            "GPU memory", stats["gpu_percent"], used, stats["gpu_peak_allocated"], stats["is_gpu_others"]
        )
    used = stats["ram_peak_percent"] / 100 * stats["ram_total"]
    return FullerMemory("RAM", stats["ram_peak_percent"], used, stats["ram_own"], stats["is_ram_others"])


def read_gpu_memory() -> GpuReading:
    """Read the current CUDA device. The allocator's cache counts as free, because this process can use it again."""
    if not torch.cuda.is_available():
        return {
            "gpu_available": False, "gpu_allocated": 0.0, "gpu_reserved": 0.0, "gpu_peak_allocated": 0.0,
            "gpu_total": 0.0, "gpu_percent": 0.0,
        }  # fmt: skip
    free, total = torch.cuda.mem_get_info()
    peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.memory_reserved()
    # At the end of a step most memory is free again, so the peak decides, beside what other processes hold.
    outside_allocator = total - free - reserved
    return {
        "gpu_available": True,
        "gpu_allocated": torch.cuda.memory_allocated() / GIB,
        "gpu_reserved": reserved / GIB,
        "gpu_peak_allocated": peak / GIB,
        "gpu_total": total / GIB,
        "gpu_percent": 100 * (outside_allocator + peak) / total,
    }


ChangeKind = Literal["shed_cache", "shed_prefetch", "shed_workers", "halved", "grown"]
"""Change that a training makes to itself. The last two change the micro-batch."""


class Relief(NamedTuple):
    """An action against full memory."""

    kind: ChangeKind
    act: Action
    frees_bytes: Callable[[], int] = int
    """The most that it can free, if that is known; otherwise 0."""


class MemoryPressure:
    """Takes actions on full memory: one at a time, the least harmful first, each with time to take effect.

    The micro-batch fills the GPU's memory, so it is halved when that is ``critical``. The loader fills RAM, and without
    a GPU the micro-batch does too. From ``warning`` on the loader sheds memory; at ``critical`` a micro-batch in RAM is
    halved first. What was shed is not taken back, because it would fill the memory again.

    If other programs hold most of the memory, nothing is halved, and only what frees as much as there is above the
    warning threshold is shed.
    """

    def __init__(self, shed: Sequence[Relief], halve: Action, device_type: str, settle: int = SETTLE_READINGS) -> None:
        self._shed, self._halve, self._device_type = tuple(shed), Relief("halved", halve), device_type
        self._settle, self._resting = settle, 0

    def react(self, stats: MemoryReading) -> tuple[ChangeKind, str] | None:
        """Take an action if a reading calls for one; return its kind and description, or None if nothing was done."""
        if self._resting:
            self._resting -= 1
            return None
        for relief in self._reliefs(stats):
            done = relief.act()
            if done:
                self._resting = self._settle
                return relief.kind, done
        return None

    def _reliefs(self, stats: MemoryReading) -> list[Relief]:
        in_ram = self._device_type == "cpu" and stats["ram_level"] == "critical" and not stats["is_ram_others"]
        on_gpu = stats["gpu_level"] == "critical" and not stats["is_gpu_others"]
        reliefs = [self._halve] if in_ram or on_gpu else []
        if stats["ram_level"] == "ok":
            return reliefs
        if stats["is_ram_others"]:
            needed_bytes = max(1.0, stats["ram_over_warning"] * GIB)
            return [*reliefs, *(relief for relief in self._shed if relief.frees_bytes() >= needed_bytes)]
        return [*reliefs, *self._shed]

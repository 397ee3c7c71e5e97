"""Memory use while training, now and at its peak, and the reactions to full memory: advice, shedding, halving."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

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
    ram_level: Level
    """Level at the peak."""
    gpu_level: Level
    level: Level
    """Level of the fuller memory."""


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


class MemoryTracker:
    """Reads GPU and RAM use and compares it with two thresholds, fractions of the memory that may be used."""

    def __init__(
        self,
        warning_threshold: float = 0.9,
        critical_threshold: float = 0.95,
        read_host: Callable[[], HostMemory] = read_host_memory,
        read_gpu: Callable[[], GpuReading] | None = None,
        peaks: OwnPeaks | None = None,
    ) -> None:
        self.peaks = peaks or OwnPeaks()
        self._thresholds = Thresholds(warning_threshold, critical_threshold)
        self._read_host = read_host
        self._read_gpu = read_gpu or read_gpu_memory
        self._announced: Level = "ok"

    def check_memory(self) -> MemoryReading:
        """Read the memory now."""
        host = self._read_host()
        gpu = self._read_gpu()
        ram_fraction = host.used_bytes / host.limit_bytes
        peak_fraction = min(1.0, (host.used_bytes + self.peaks.rss_over_now_bytes()) / host.limit_bytes)
        gpu_fraction = gpu["gpu_percent"] / 100
        return {
            **gpu,
            "ram_used": host.used_bytes / GIB,
            "ram_total": host.limit_bytes / GIB,
            "ram_percent": 100 * ram_fraction,
            "ram_peak_percent": 100 * peak_fraction,
            "ram_source": host.source,
            "ram_level": self._thresholds.level(peak_fraction),
            "gpu_level": self._thresholds.level(gpu_fraction),
            "level": self._thresholds.level(max(peak_fraction, gpu_fraction)),
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
        level = stats["level"]
        if LEVELS.index(level) <= LEVELS.index(self._announced):
            return None
        self._announced = level
        line = f"memory {level}: {fullest_memory(stats)}"
        gpu_is_fuller = stats["gpu_percent"] > stats["ram_peak_percent"]
        if level == "warning":
            return line
        if gpu_is_fuller:
            return f"{line}; use a smaller training.batch_size with more training.gradient_accumulation_steps"
        return (
            f"{line}; use a smaller training.batch_size with more training.gradient_accumulation_steps, "
            "fewer data.num_workers or a smaller model.cache_size_limit_mb"
        )


def fullest_memory(stats: MemoryReading) -> str:
    """Return ``"RAM is 92 % full"``, or the same of the GPU's memory if that is fuller."""
    if stats["gpu_percent"] > stats["ram_peak_percent"]:
        return f"GPU memory is {stats['gpu_percent']:.0f} % full"
    return f"RAM is {stats['ram_peak_percent']:.0f} % full"


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


class MemoryPressure:
    """Takes actions on full memory: one at a time, the least harmful first, each with time to take effect.

    The micro-batch fills the GPU's memory, so it is halved when that is ``critical``. The loader fills RAM, and without
    a GPU the micro-batch does too. From ``warning`` on the loader sheds memory; at ``critical`` a micro-batch in RAM is
    halved first. What was shed is not taken back, because it would fill the memory again.
    """

    def __init__(self, shed: Sequence[Action], halve: Action, device_type: str, settle: int = SETTLE_READINGS) -> None:
        self._shed, self._halve, self._device_type = tuple(shed), halve, device_type
        self._settle, self._resting = settle, 0

    def react(self, stats: MemoryReading) -> str | None:
        """Take an action if a reading calls for one, and describe it; return None if nothing was done."""
        if self._resting:
            self._resting -= 1
            return None
        for act in self._actions(stats):
            done = act()
            if done:
                self._resting = self._settle
                return done
        return None

    def _actions(self, stats: MemoryReading) -> list[Action]:
        in_ram = self._device_type == "cpu" and stats["ram_level"] == "critical"
        actions = [self._halve] if in_ram or stats["gpu_level"] == "critical" else []
        return actions + (list(self._shed) if stats["ram_level"] != "ok" else [])

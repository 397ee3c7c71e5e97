"""How full the memory is while training, at its fullest too, and one line of advice when it gets tight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from slr_bench.errors import ProbeUnavailableError
from slr_bench.probes.host import HostMemory, high_water_bytes, read_host_memory, reset_high_water, rss_bytes
from slr_bench.probes.thresholds import LEVELS, Level, Thresholds
from slr_bench.units import GIB

REARM_BELOW = 0.05  # a level is announced again only after use has fallen this far below its threshold


class OwnPeaks:
    """This process's peaks. Their marks can be set back, so that they tell of what follows, without being forgotten.

    A meter around the training that reads the same marks sees only what came after the last setting back.
    """

    def __init__(self) -> None:
        self._rss_before, self._gpu_before = 0, 0
        self._host_works = True

    def rss_bytes(self) -> int | None:
        """The kernel's high-water mark since the process began; None where the kernel does not report it."""
        try:
            return max(self._rss_before, high_water_bytes())
        except ProbeUnavailableError:
            return None

    def rss_over_now_bytes(self) -> int:
        """How much more was resident at the fullest since the mark was last set back; 0 where that cannot be read."""
        if not self._host_works:
            return 0
        try:
            return max(0, high_water_bytes() - rss_bytes())
        except (ProbeUnavailableError, OSError):
            return 0

    def gpu_bytes(self, device: torch.device) -> int | None:
        """Torch's allocator on a CUDA ``device`` since the process began; None for the CPU."""
        return max(self._gpu_before, torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None

    def set_back(self) -> None:
        """Begin the marks anew from what is held now. Some containers refuse it for RAM: peaks are not used then."""
        if torch.cuda.is_initialized():
            self._gpu_before = max(self._gpu_before, torch.cuda.max_memory_allocated())
            torch.cuda.reset_peak_memory_stats()
        try:
            self._rss_before = max(self._rss_before, high_water_bytes())
            reset_high_water()
        except ProbeUnavailableError:
            self._host_works = False


class MemoryTracker:
    """Reads GPU and RAM use and holds it against two thresholds (fractions of the memory that may be used)."""

    def __init__(
        self,
        warning_threshold: float = 0.9,
        critical_threshold: float = 0.95,
        read_host: Callable[[], HostMemory] = read_host_memory,
        read_gpu: Callable[[], dict[str, Any]] | None = None,
        peaks: OwnPeaks | None = None,
    ) -> None:
        self.peaks = peaks or OwnPeaks()
        self._thresholds = Thresholds(warning_threshold, critical_threshold)
        self._read_host = read_host
        self._read_gpu = read_gpu or read_gpu_memory
        self._announced: Level = "ok"

    def check_memory(self) -> dict[str, Any]:
        """Sizes in GiB. ``ram_*`` is the use and limit of the cgroup or the machine, as ``ram_source`` says.

        Keys: ``gpu_available, gpu_allocated, gpu_reserved, gpu_peak_allocated, gpu_total`` (0.0 without a GPU),
        ``gpu_percent`` (use of the whole device at this process's :class:`OwnPeaks`), ``ram_used, ram_total,
        ram_percent, ram_source, ram_peak_percent`` (now, and had this process what it held at its peak), the levels
        ``ram_level`` and ``gpu_level`` (``ok | warning | critical``, both at the peak) and ``level``, of whichever
        memory is fuller.
        """
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

    def doubling_fits(self, stats: dict[str, Any]) -> bool:
        """Whether all memories stay below ``warning`` if what a step needs over rest becomes twice as much."""
        ram = 2 * stats["ram_peak_percent"] - stats["ram_percent"]
        over_rest = stats["gpu_peak_allocated"] - stats["gpu_allocated"]
        gpu = stats["gpu_percent"] + (100 * over_rest / stats["gpu_total"] if stats["gpu_total"] else 0.0)
        return bool(max(ram, gpu) < 100 * self._thresholds.warning)

    def advice(self, stats: dict[str, Any]) -> str | None:
        """A line when ``stats`` reach a level that was not announced yet, else None: not one line every step."""
        fraction = max(stats["ram_peak_percent"], stats["gpu_percent"]) / 100
        while self._announced != "ok" and fraction < getattr(self._thresholds, self._announced) - REARM_BELOW:
            self._announced = LEVELS[LEVELS.index(self._announced) - 1]
        level = stats["level"]
        if LEVELS.index(level) <= LEVELS.index(self._announced):
            return None
        self._announced = level
        line = f"memory {level}: {fullest(stats)}"
        gpu_is_fuller = stats["gpu_percent"] > stats["ram_peak_percent"]
        if level == "warning":
            return line
        if gpu_is_fuller:
            return f"{line}; use a smaller training.batch_size with more training.gradient_accumulation_steps"
        return (
            f"{line}; use a smaller training.batch_size with more training.gradient_accumulation_steps, "
            "fewer data.num_workers or a smaller model.cache_size_limit_mb"
        )


def fullest(stats: dict[str, Any]) -> str:
    """``"RAM is 92 % full"``, or the GPU's memory if that is fuller."""
    if stats["gpu_percent"] > stats["ram_peak_percent"]:
        return f"GPU memory is {stats['gpu_percent']:.0f} % full"
    return f"RAM is {stats['ram_peak_percent']:.0f} % full"


def read_gpu_memory() -> dict[str, Any]:
    """The current CUDA device, GiB. The allocator's cache counts as free: this process can use it again."""
    if not torch.cuda.is_available():
        keys = ("gpu_allocated", "gpu_reserved", "gpu_peak_allocated", "gpu_total", "gpu_percent")
        return {"gpu_available": False, **dict.fromkeys(keys, 0.0)}
    free, total = torch.cuda.mem_get_info()
    peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.memory_reserved()
    # At the end of a step most is freed again: what decides is the peak, beside what others hold of the device.
    outside_allocator = total - free - reserved
    return {
        "gpu_available": True,
        "gpu_allocated": torch.cuda.memory_allocated() / GIB,
        "gpu_reserved": reserved / GIB,
        "gpu_peak_allocated": peak / GIB,
        "gpu_total": total / GIB,
        "gpu_percent": 100 * (outside_allocator + peak) / total,
    }

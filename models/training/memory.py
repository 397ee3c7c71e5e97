"""How full the memory is while training, and one line of advice when it gets tight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from slr_bench.probes.host import HostMemory, read_host_memory
from slr_bench.probes.thresholds import LEVELS, Level, Thresholds
from slr_bench.units import GIB

REARM_BELOW = 0.05  # a level is announced again only after use has fallen this far below its threshold


class MemoryTracker:
    """Reads GPU and RAM use and holds it against two thresholds (fractions of the memory that may be used)."""

    def __init__(
        self,
        warning_threshold: float = 0.9,
        critical_threshold: float = 0.95,
        read_host: Callable[[], HostMemory] = read_host_memory,
        read_gpu: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self._thresholds = Thresholds(warning_threshold, critical_threshold)
        self._read_host = read_host
        self._read_gpu = read_gpu or read_gpu_memory
        self._announced: Level = "ok"

    def check_memory(self) -> dict[str, Any]:
        """Sizes in GiB. ``ram_*`` is the use and limit of the cgroup or the machine, as ``ram_source`` says.

        Keys: ``gpu_available, gpu_allocated, gpu_reserved, gpu_peak_allocated, gpu_total`` (0.0 without a GPU),
        ``gpu_percent`` (use of the whole device at this process's peak), ``ram_used, ram_total, ram_percent,
        ram_source`` and ``level`` (``ok | warning | critical``, of whichever memory is fuller).
        """
        host = self._read_host()
        gpu = self._read_gpu()
        ram_fraction = host.used_bytes / host.limit_bytes
        return {
            **gpu,
            "ram_used": host.used_bytes / GIB,
            "ram_total": host.limit_bytes / GIB,
            "ram_percent": 100 * ram_fraction,
            "ram_source": host.source,
            "level": self._thresholds.level(max(ram_fraction, gpu["gpu_percent"] / 100)),
        }

    def advice(self, stats: dict[str, Any]) -> str | None:
        """A line when ``stats`` reach a level that was not announced yet, else None: not one line every step."""
        fraction = max(stats["ram_percent"], stats["gpu_percent"]) / 100
        while self._announced != "ok" and fraction < getattr(self._thresholds, self._announced) - REARM_BELOW:
            self._announced = LEVELS[LEVELS.index(self._announced) - 1]
        level = stats["level"]
        if LEVELS.index(level) <= LEVELS.index(self._announced):
            return None
        self._announced = level
        gpu_is_fuller = stats["gpu_percent"] > stats["ram_percent"]
        name, percent = ("GPU memory", stats["gpu_percent"]) if gpu_is_fuller else ("RAM", stats["ram_percent"])
        line = f"memory {level}: {name} is {percent:.0f} % full"
        if level == "warning":
            return line
        if gpu_is_fuller:
            return f"{line}; use a smaller training.batch_size with more training.gradient_accumulation_steps"
        return (
            f"{line}; use a smaller training.batch_size with more training.gradient_accumulation_steps, "
            "fewer data.num_workers or a smaller model.cache_size_limit_mb"
        )


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

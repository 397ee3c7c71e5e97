"""Torch's own counters of the CUDA caching allocator. Imports torch: used in the child only."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import torch

from slr_bench.record import Metric

_STATS = {
    "peak_allocated_bytes": "allocated_bytes.all.peak",
    "peak_requested_bytes": "requested_bytes.all.peak",
    "peak_reserved_bytes": "reserved_bytes.all.peak",
}


class CudaAllocatorProbe:
    """Peaks of allocated, requested and reserved bytes while open. Null with the reason where there is no GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._values: dict[str, int] = {}

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._device.type == "cuda":
            stats = torch.cuda.memory_stats(self._device)
            self._values = {name: int(stats[key]) for name, key in _STATS.items()}

    def readings(self) -> dict[str, Metric]:
        """The three peaks of ``torch.cuda.memory_stats``."""
        if self._device.type != "cuda":
            reason = "the cell ran on the CPU, which has no caching allocator"
            return {name: Metric.unavailable("bytes", "torch.cuda", reason) for name in _STATS}
        return {
            name: Metric(value=value, unit="bytes", source="torch.cuda", quality="exact")
            for name, value in self._values.items()
        }

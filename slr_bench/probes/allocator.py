"""Torch's own counters of the CUDA caching allocator. Imports torch, so only the child uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

import torch

from slr_bench.record import Metric

KINDS: Final = ("allocated", "requested", "reserved")
_REASON = "the cell ran on the CPU, which has no caching allocator"


class CudaAllocatorProbe:
    """Peaks of allocated, requested and reserved bytes while open, in total and in each ``phase``.

    Null with the reason if there is no GPU. ``read_stats``, ``reset_peaks`` and ``synchronize`` are those of
    ``torch.cuda``; the counters change on the host as operators are called, so only the ends wait for the device.
    """

    def __init__(
        self,
        device: torch.device,
        read_stats: Callable[[torch.device], Mapping[str, Any]] | None = None,
        reset_peaks: Callable[[torch.device], None] | None = None,
        synchronize: Callable[[torch.device], None] | None = None,
    ) -> None:
        self._device = device
        self._read_stats = read_stats or torch.cuda.memory_stats
        self._reset_peaks = reset_peaks or torch.cuda.reset_peak_memory_stats
        self._synchronize = synchronize or torch.cuda.synchronize
        self._peaks: dict[str, int] | None = None
        self._open_phases: list[str] = []
        self.peaks_by_phase: dict[str, dict[str, int]] = {}
        """Phase -> kind -> most bytes in it, nested phases included."""

    @property
    def _is_cuda(self) -> bool:
        return self._device.type == "cuda"

    def __enter__(self) -> Self:
        if self._is_cuda:
            self._synchronize(self._device)
            self._reset_peaks(self._device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_cuda:
            self._synchronize(self._device)
            self._fold()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Listen to a phase clock. Torch has one peak, which is added to the phase and reset at its ends."""
        if not self._is_cuda:
            yield
            return
        self._fold_and_reset()
        self._open_phases.append(name)
        try:
            yield
        finally:
            self._fold_and_reset()
            self._open_phases.pop()

    def readings(self) -> dict[str, Metric]:
        """Return ``peak_allocated_bytes``, ``peak_requested_bytes``, ``peak_reserved_bytes`` over all phases."""
        if self._peaks is None:
            reason = "the probe was not closed" if self._is_cuda else _REASON
            return {f"peak_{kind}_bytes": Metric.unavailable("bytes", "torch.cuda", reason) for kind in KINDS}
        return {
            f"peak_{kind}_bytes": Metric(value=value, unit="bytes", source="torch.cuda", quality="exact")
            for kind, value in self._peaks.items()
        }

    def _fold_and_reset(self) -> None:
        self._fold()
        self._reset_peaks(self._device)

    def _fold(self) -> None:
        """Add the peak since the last reset to the total and to every open phase."""
        stats = self._read_stats(self._device)
        peaks = {kind: int(stats[f"{kind}_bytes.all.peak"]) for kind in KINDS}
        self._peaks = _larger(self._peaks, peaks)
        for name in self._open_phases:
            self.peaks_by_phase[name] = _larger(self.peaks_by_phase.get(name), peaks)


def _larger(known: dict[str, int] | None, peaks: dict[str, int]) -> dict[str, int]:
    return dict(peaks) if known is None else {kind: max(known[kind], peaks[kind]) for kind in KINDS}

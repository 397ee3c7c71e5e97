"""Predict what a step on the CPU adds to a process's memory, from its traced tensors. Imports no torch."""

from __future__ import annotations

import bisect
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from slr_bench.execute.job import JsonObject
from slr_bench.predict.device import CPU, Estimate, Fit
from slr_bench.predict.trace_pool import StepProfile
from slr_bench.trace.requests import ALLOCATE, FREE, TRANSIENT, Requests
from slr_bench.units import MIB

START_BYTES: Final = 700 * MIB
"""Memory of a process that has only imported torch, torchvision and PyAV: 620 to 910 MiB."""
MAPPED_FROM_BYTES: Final = 32 * MIB
"""Smallest block that glibc maps apart from the heap."""
_TRIMMED_FROM_BYTES: Final = 2 * MAPPED_FROM_BYTES
"""Smallest free end of the heap that glibc gives back."""
_BASE_BYTES: Final = 100 * MIB
"""Memory that a first step adds beside tensors: oneDNN's compiled kernels, code pages, Python objects."""
_TIMES_THE_LARGEST: Final = 2
"""Room for libraries and holes in the heap, in units of the largest tensor."""
_LEAST_SPREAD_BYTES: Final = 100 * MIB


@dataclass(frozen=True)
class HostPrediction:
    """The memory that a setting's step needs on the CPU."""

    step: StepProfile
    rss_over_start: Estimate
    """High-water mark of the process, minus its memory before the workload was built."""
    fit: Fit
    capacity_bytes: int | None
    """Memory that the whole process may use."""

    def to_dict(self) -> JsonObject:
        """The JSON object of ``slr-bench predict``; keys that only a GPU has are null."""
        step = self.step
        return {
            "device": CPU,
            "source": step.source,
            "told_from_micro_batches": step.interpolated_from,
            "peak_tensor_bytes": step.peak_tensor_bytes,
            "floor_bytes": step.floor_bytes,
            "requested_bytes": Estimate.exactly(step.peak_tensor_bytes).to_dict(),
            "allocated_bytes": None,
            "reserved_bytes": None,
            "nvml_bytes": None,
            "rss_over_start_bytes": self.rss_over_start.to_dict(),
            "by_category": step.by_category,
            "by_module": [module._asdict() for module in step.by_module],
            "unmodelled": [],
            "capacity_bytes": self.capacity_bytes,
            "fits": self.fit.json_value,
        }


def predict_step_on_cpu(step: StepProfile, capacity_bytes: int | None = None) -> HostPrediction:
    """Predict the high-water mark: the heap under tensors and oneDNN's copies, twice the largest tensor, and a base.

    The constants were fitted to six settings; ``python -m benchmarks.proofs.predict_proof --part host`` tests them
    against others. ``capacity_bytes`` counts the whole process, its imports included.
    """
    largest = max((size for kind, _, size in step.requests if kind == ALLOCATE), default=0)
    value = _BASE_BYTES + _TIMES_THE_LARGEST * largest + heap_high_water_bytes(step.requests)
    spread = max(value // 10, _LEAST_SPREAD_BYTES)
    estimate = Estimate(value, max(step.peak_tensor_bytes, value - spread), value + spread)
    if capacity_bytes is None:
        return HostPrediction(step, estimate, Fit.NO_CARD, None)
    room = capacity_bytes - START_BYTES
    fit = Fit.YES if estimate.high <= room else Fit.NO if value > room else Fit.MAYBE
    return HostPrediction(step, estimate, fit, capacity_bytes)


def heap_high_water_bytes(requests: Requests) -> int:
    """Peak of the heap over a traced first step and a steady one, with the expected workspaces."""
    heap = GlibcHeap()
    for kind, first, second in requests:
        if kind == ALLOCATE:
            heap.allocate(first, second)
        elif kind == FREE:
            heap.release(first)
        elif kind == TRANSIENT and first:
            heap.allocate("operator", first)
            heap.release("operator")
    return heap.high_water_bytes


class GlibcHeap:
    """A sketch of glibc's malloc, to see how far the heap grows under a step's allocations.

    A request takes the smallest free chunk that suffices and splits it; free neighbours are merged; if no chunk
    suffices, the end of the heap grows. Memory that is freed inside the heap stays resident.

    Large blocks are mapped apart and given back at once. glibc raises that limit to ``MAPPED_FROM_BYTES`` as such
    blocks are freed (``DEFAULT_MMAP_THRESHOLD_MAX`` in ``malloc/malloc.c``), which a first step does. Headers,
    alignment and the arenas of other threads are left out.
    """

    def __init__(self) -> None:
        self.end = 0
        self.mapped_bytes = 0
        self.high_water_bytes = 0
        """The most that was resident at once."""
        self.used: dict[Hashable, tuple[int, int]] = {}
        """Address and size of each block in use in the heap."""
        self._mapped: dict[Hashable, int] = {}
        self._by_size: list[tuple[int, int]] = []
        self._by_start: dict[int, int] = {}
        self._by_end: dict[int, int] = {}

    @property
    def free(self) -> list[tuple[int, int]]:
        """Address and size of the free chunks."""
        return sorted(self._by_start.items())

    def allocate(self, name: Hashable, size: int) -> None:
        """Allocate ``size`` bytes (more than 0) under a name that is not in use."""
        if size >= MAPPED_FROM_BYTES:
            self._mapped[name] = size
            self.mapped_bytes += size
        else:
            self.used[name] = (self._find_address(size), size)
        self.high_water_bytes = max(self.high_water_bytes, self.end + self.mapped_bytes)

    def release(self, name: Hashable) -> None:
        """Free the block of that name."""
        if name in self._mapped:
            self.mapped_bytes -= self._mapped.pop(name)
            return
        start, size = self.used.pop(name)
        if start in self._by_end:
            before = self._by_end[start]
            size += self._remove_chunk(before)
            start = before
        if start + size in self._by_start:
            size += self._remove_chunk(start + size)
        if start + size == self.end and size >= _TRIMMED_FROM_BYTES:
            self.end = start
        else:
            self._add_chunk(start, size)

    def _find_address(self, size: int) -> int:
        index = bisect.bisect_left(self._by_size, (size, -1))
        if index < len(self._by_size):
            start = self._by_size[index][1]
            rest = self._remove_chunk(start) - size
            if rest:
                self._add_chunk(start + size, rest)
            return start
        start = self._by_end.get(self.end, self.end)
        if start != self.end:
            self._remove_chunk(start)
        self.end = start + size
        return start

    def _add_chunk(self, start: int, size: int) -> None:
        self._by_start[start] = size
        self._by_end[start + size] = start
        bisect.insort(self._by_size, (size, start))

    def _remove_chunk(self, start: int) -> int:
        size = self._by_start.pop(start)
        del self._by_end[start + size]
        del self._by_size[bisect.bisect_left(self._by_size, (size, start))]
        return size

"""How far the C library's heap grows under a step's allocations on the CPU, and stays. No torch.

A sketch of glibc's malloc: the smallest free chunk that suffices, split; neighbours merged; the end of the heap grows
where none does. What is freed inside stays resident. Large blocks are mapped apart and given back at once, from a size
on that glibc itself raises to ``MAPPED_FROM_BYTES`` as such blocks are freed (``DEFAULT_MMAP_THRESHOLD_MAX`` in
``malloc/malloc.c``), which a first step does. Headers, alignment and arenas of other threads are left out.
"""

from __future__ import annotations

import bisect
from collections.abc import Hashable, Sequence
from typing import Final

from slr_bench.trace.request_kinds import ALLOCATE, FREE, TRANSIENT
from slr_bench.units import MIB

MAPPED_FROM_BYTES: Final = 32 * MIB
_TRIMMED_FROM_BYTES: Final = 2 * MAPPED_FROM_BYTES
"""Free bytes at the end of the heap that are given back."""


class Heap:
    """``high_water_bytes``: the most that was resident at once."""

    def __init__(self) -> None:
        self.end = 0
        self.mapped_bytes = 0
        self.high_water_bytes = 0
        self.used: dict[Hashable, tuple[int, int]] = {}
        """Address and size of what is in use in the heap."""
        self._mapped: dict[Hashable, int] = {}
        self._by_size: list[tuple[int, int]] = []
        self._by_start: dict[int, int] = {}
        self._by_end: dict[int, int] = {}

    @property
    def free(self) -> list[tuple[int, int]]:
        """Address and size of the free chunks."""
        return sorted(self._by_start.items())

    def allocate(self, name: Hashable, size: int) -> None:
        """Give out ``size`` bytes (more than 0) under a name that is not in use."""
        if size >= MAPPED_FROM_BYTES:
            self._mapped[name] = size
            self.mapped_bytes += size
        else:
            self.used[name] = (self._place(size), size)
        self.high_water_bytes = max(self.high_water_bytes, self.end + self.mapped_bytes)

    def release(self, name: Hashable) -> None:
        """Take back what has the name."""
        if name in self._mapped:
            self.mapped_bytes -= self._mapped.pop(name)
            return
        start, size = self.used.pop(name)
        if start in self._by_end:
            before = self._by_end[start]
            size += self._taken(before)
            start = before
        if start + size in self._by_start:
            size += self._taken(start + size)
        if start + size == self.end and size >= _TRIMMED_FROM_BYTES:
            self.end = start
        else:
            self._give(start, size)

    def _place(self, size: int) -> int:
        place = bisect.bisect_left(self._by_size, (size, -1))
        if place < len(self._by_size):
            start = self._by_size[place][1]
            rest = self._taken(start) - size
            if rest:
                self._give(start + size, rest)
            return start
        start = self._by_end.get(self.end, self.end)
        if start != self.end:
            self._taken(start)
        self.end = start + size
        return start

    def _give(self, start: int, size: int) -> None:
        self._by_start[start] = size
        self._by_end[start + size] = start
        bisect.insort(self._by_size, (size, start))

    def _taken(self, start: int) -> int:
        size = self._by_start.pop(start)
        del self._by_end[start + size]
        del self._by_size[bisect.bisect_left(self._by_size, (size, start))]
        return size


def high_water_bytes(requests: Sequence[Sequence[int]]) -> int:
    """Of a traced first step and a steady one (``trace.requests``); operators' own memory as expected."""
    heap = Heap()
    for kind, first, second in requests:
        if kind == ALLOCATE:
            heap.allocate(first, second)
        elif kind == FREE:
            heap.release(first)
        elif kind == TRANSIENT and first:
            heap.allocate("operator", first)
            heap.release("operator")
    return heap.high_water_bytes

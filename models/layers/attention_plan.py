"""Which tiles of the T x S attention scores are computed: chunks of keys, or a window around the diagonal.

T frame (query), S frame (key)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Plan(Protocol):
    """Which tiles of the T x S scores are computed. Every pair lies in at most one."""

    def by_query(self, queries: int, keys: int) -> Iterator[tuple[slice, list[slice]]]:
        """Each query once: rows, and the spans of keys they attend to."""

    def by_key(self, queries: int, keys: int) -> Iterator[tuple[slice, list[slice]]]:
        """Each key once: columns, and the spans of queries that attend to them."""

    def mask(self, rows: slice, columns: slice, shift: int, device: torch.device) -> Tensor | None:
        """Pairs of a tile that count (bool); None: all. Query ``i`` is frame ``i + shift`` of the keys."""


class Chunks(NamedTuple):
    """All queries against ``size`` keys at a time."""

    size: int

    def by_query(self, queries: int, keys: int) -> Iterator[tuple[slice, list[slice]]]:
        yield slice(0, queries), list(_slices(0, keys, self.size))

    def by_key(self, queries: int, keys: int) -> Iterator[tuple[slice, list[slice]]]:
        for columns in _slices(0, keys, self.size):
            yield columns, [slice(0, queries)]

    def mask(self, rows: slice, columns: slice, shift: int, device: torch.device) -> None:
        return None


class Window(NamedTuple):
    """``block`` frames against those from ``before`` ahead of them to ``after`` behind, and the first frames."""

    before: int
    after: int
    global_frames: int
    block: int

    def by_query(self, queries: int, keys: int) -> Iterator[tuple[slice, list[slice]]]:
        shift = keys - queries
        return self._tiles(queries, keys, shift - self.before, shift + self.after)

    def by_key(self, queries: int, keys: int) -> Iterator[tuple[slice, list[slice]]]:
        shift = keys - queries
        return self._tiles(keys, queries, -shift - self.after, self.before - shift)

    def _tiles(self, length: int, other: int, low: int, high: int) -> Iterator[tuple[slice, list[slice]]]:
        """Frame ``i`` meets ``i + low`` to ``i + high`` of the ``other`` frames; the first ones of both meet all."""
        first = min(self.global_frames, length)
        if first:
            yield slice(0, first), [slice(0, other)]
        for block in _slices(first, length, self.block):
            near = slice(min(other, max(first, block.start + low)), max(0, min(other, block.stop + high)))
            yield block, [span for span in (slice(0, first), near) if span.start < span.stop]

    def mask(self, rows: slice, columns: slice, shift: int, device: torch.device) -> Tensor | None:
        if min(rows.stop, columns.stop) <= self.global_frames:
            return None
        diagonal = rows.start + shift - columns.start
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if diagonal + height - 1 <= self.before and width - 1 - diagonal <= self.after:
            return None
        band = torch.ones(height, width, dtype=torch.bool, device=device)
        return band.triu_(diagonal - self.before).tril_(diagonal + self.after)


def _slices(start: int, stop: int, size: int) -> Iterator[slice]:
    for begin in range(start, stop, size):
        yield slice(begin, min(stop, begin + size))

"""A simulation of torch's CUDA caching allocator: what a sequence of requests and frees reserves, and where it fails.

It follows ``c10/cuda/CUDACachingAllocator.cpp`` (torch 2.11 to 2.14): two pools per stream, best fit by (size,
address), splitting, merging with free neighbours, and cached segments that are given back under pressure.

Two things are not modelled: ``garbage_collection_threshold``, and ``record_stream`` across streams, where a freed block
waits for an event.

Addresses of segments decide between blocks of equal size. Here they ascend in the order of allocation, unless the
caller passes the true ones. An allocator can begin in the state that a recording begins in.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Final

from slr_bench.errors import SlrBenchError
from slr_bench.predict.allocator.recording import DEFAULT_POOL, PoolId, SegmentState
from slr_bench.predict.allocator.rules import DEFAULT_SETTINGS, UNLIMITED, AllocatorSettings, round_up, segment_bytes
from slr_bench.units import format_bytes

_FIRST_ADDRESS: Final = 1 << 45


class OutOfDeviceMemoryError(SlrBenchError):
    """The device has no room for the segment that a request needs, even without all that is cached."""


class Block:
    """A part of a segment: allocated, free, or without memory behind it (in an expandable segment)."""

    __slots__ = (
        "address",
        "is_free",
        "is_mapped",
        "next",
        "pool",
        "previous",
        "requested_bytes",
        "segment",
        "size_bytes",
    )

    def __init__(self, address: int, size_bytes: int, pool: Pool, segment: object) -> None:
        self.address = address
        self.size_bytes = size_bytes
        self.pool = pool
        self.segment = segment
        """Shared by the blocks of one segment."""
        self.requested_bytes = 0
        self.is_free = True
        self.is_mapped = True
        self.previous: Block | None = None
        self.next: Block | None = None

    def insert_before(self, other: Block) -> None:
        """Insert this block before ``other`` in its segment."""
        self.previous, self.next = other.previous, other
        if other.previous is not None:
            other.previous.next = self
        other.previous = self

    def insert_after(self, other: Block) -> None:
        """Insert this block after ``other`` in its segment."""
        self.previous, self.next = other, other.next
        if other.next is not None:
            other.next.previous = self
        other.next = self


class Pool:
    """Free blocks of one stream and private pool, for small or large requests, ordered by size and then by address."""

    __slots__ = ("free", "is_small", "stream", "unmapped")

    def __init__(self, is_small: bool, stream: int) -> None:
        self.is_small, self.stream = is_small, stream
        self.free: list[tuple[int, int, Block]] = []
        self.unmapped: list[tuple[int, Block]] = []
        """Blocks without memory behind them, by address."""

    def add(self, block: Block) -> None:
        """Add a block that became free."""
        insort(self.free, (block.size_bytes, block.address, block))

    def remove(self, block: Block) -> None:
        """Remove a block that is no longer free."""
        del self.free[bisect_left(self.free, (block.size_bytes, block.address))]

    def add_unmapped(self, block: Block) -> None:
        """Add a block that has no memory behind it."""
        insort(self.unmapped, (block.address, block))

    def remove_unmapped(self, block: Block) -> None:
        """Remove a block that has memory now, or is part of another block."""
        del self.unmapped[bisect_left(self.unmapped, (block.address,))]


class CachingAllocator:
    """The allocator of one device. ``peak_*`` are the highest values since the last :meth:`reset_peaks`."""

    def __init__(self, settings: AllocatorSettings = DEFAULT_SETTINGS) -> None:
        self.settings, self.rules = settings, settings.rules
        self.capacity_bytes = settings.capacity_bytes
        """Memory for segments; it may change."""
        self.next_address: int | None = None
        """Address of the next new segment; None stands for one above all others."""
        self.requested_bytes = self.allocated_bytes = self.reserved_bytes = 0
        self.segments = 0
        """Number of segments from ``cudaMalloc``. Like torch, it does not count expandable segments."""
        self.peak_requested_bytes = self.peak_allocated_bytes = self.peak_reserved_bytes = 0
        self.retries = 0
        """Number of times that cached segments were given back to make room."""
        self._pools: dict[tuple[bool, int, PoolId], Pool] = {}
        self._free_address = _FIRST_ADDRESS

    @property
    def peaks_bytes(self) -> tuple[int, int, int]:
        """Peaks of requested, allocated and reserved bytes."""
        return self.peak_requested_bytes, self.peak_allocated_bytes, self.peak_reserved_bytes

    def restore(self, segments: Sequence[SegmentState]) -> dict[int, Block]:
        """Put segments into the empty allocator, and return their allocated blocks by address."""
        alive: dict[int, Block] = {}
        for segment in segments:
            self.segments += 1
            self._restore_range(segment, None, None, alive)
        self.reset_peaks()
        return alive

    def allocate(self, size_bytes: int, stream: int = 0, private_pool: PoolId = DEFAULT_POOL) -> Block:
        """Return a block for a request of ``size_bytes`` (at least 1).

        Raises:
            OutOfDeviceMemoryError: it would exceed ``capacity_bytes``. Only the caches were emptied.
        """
        size = round_up(size_bytes, self.settings)
        is_small = size <= self.rules.small_request_bytes
        key = (is_small, stream, private_pool)
        pool = self._pools.get(key) or self._pools.setdefault(key, Pool(is_small, stream))
        block = (
            self._take_cached(pool, size)
            or self._take_new(pool, size)
            or self._take_after_release(pool, size, size_bytes)
        )
        if self._is_split(block, size):
            rest = block
            block = Block(rest.address, size, pool, rest.segment)
            block.insert_before(rest)
            rest.address += size
            rest.size_bytes -= size
            pool.add(rest)
        block.is_free = False
        block.requested_bytes = size_bytes
        self.requested_bytes += size_bytes
        self.allocated_bytes += block.size_bytes
        if self.requested_bytes > self.peak_requested_bytes:
            self.peak_requested_bytes = self.requested_bytes
        if self.allocated_bytes > self.peak_allocated_bytes:
            self.peak_allocated_bytes = self.allocated_bytes
        return block

    def free(self, block: Block) -> None:
        """Return a block to its pool, merged with its free neighbours.

        Raises:
            ValueError: the block is free already.
        """
        if block.is_free:
            raise ValueError(f"the block at {block.address:#x} is freed twice")
        self.requested_bytes -= block.requested_bytes
        self.allocated_bytes -= block.size_bytes
        block.is_free = True
        self._merge(block)
        block.pool.add(block)

    def release(self, address: int, size_bytes: int) -> bool:
        """Give one free segment back to the device, as a recording did; return False if it is not free here."""
        for pool in self._pools.values():
            index = bisect_left(pool.free, (size_bytes, address))
            if index < len(pool.free) and pool.free[index][:2] == (size_bytes, address):
                block = pool.free[index][2]
                if block.previous is None and block.next is None:
                    self._give_back(block)
                    return True
        return False

    def empty_cache(self) -> None:
        """Give back every segment without an allocated block (``torch.cuda.empty_cache``)."""
        for pool in self._pools.values():
            self._release(pool)

    def reset_peaks(self) -> None:
        """Restart the peaks from the current values."""
        self.peak_requested_bytes = self.requested_bytes
        self.peak_allocated_bytes = self.allocated_bytes
        self.peak_reserved_bytes = self.reserved_bytes

    def blocks(self) -> list[Block]:
        """Return all free and unmapped blocks, for checks. Allocated blocks are known to their owners only."""
        pools = self._pools.values()
        free = [block for pool in pools for _, _, block in pool.free]
        return free + [block for pool in pools for _, block in pool.unmapped]

    def _pool_of(self, segment: SegmentState) -> Pool:
        key = (segment.is_small, segment.stream, segment.pool)
        return self._pools.setdefault(key, Pool(segment.is_small, segment.stream))

    def _restore_range(
        self, segment: SegmentState, mark: object, before: Block | None, alive: dict[int, Block]
    ) -> Block:
        """Add the blocks of a segment behind the block ``before``, and return the last one."""
        pool = self._pool_of(segment)
        self.reserved_bytes += segment.size_bytes
        self._free_address = max(self._free_address, segment.end)
        address = segment.address
        for live in (*segment.blocks, None):
            start = segment.end if live is None else live.address
            if start > address:
                block = Block(address, start - address, pool, mark)
                pool.add(block)
                before = _append(block, before)
            if live is not None:
                block = Block(start, live.size_bytes, pool, mark)
                block.is_free, block.requested_bytes = False, live.requested_bytes
                self.requested_bytes += live.requested_bytes
                self.allocated_bytes += live.size_bytes
                alive[start] = block
                before = _append(block, before)
                address = start + live.size_bytes
        assert before is not None, "a segment has at least one byte"
        return before

    def _take_cached(self, pool: Pool, size: int) -> Block | None:
        """Take the best fit out of the pool."""
        index = self._best_fit(pool, size)
        if index == len(pool.free):
            return None
        block = pool.free[index][2]
        limit = self.settings.max_split_size_bytes
        if size < limit <= block.size_bytes:
            return None
        if size >= limit and block.size_bytes >= size + self.settings.max_non_split_rounding_bytes:
            return None
        del pool.free[index]
        return block

    def _best_fit(self, pool: Pool, size: int) -> int:
        """Return the index in ``pool.free`` of the smallest sufficient block; its length if no block suffices."""
        return bisect_left(pool.free, (size,))

    def _take_new(self, pool: Pool, size: int) -> Block | None:
        """Make a segment for the block; return None if the device has no room."""
        segment = segment_bytes(size, self.settings)
        if not self._reserve(segment):
            return None
        self.segments += 1
        return Block(self._new_address(segment), segment, pool, None)

    def _take_after_release(self, pool: Pool, size: int, size_bytes: int) -> Block:
        """Give back as many oversized blocks as needed, then everything cached, and try again."""
        self.retries += 1
        block = self._take_new(pool, size) if self._release_oversized(pool, size) else None
        if block is None:
            self.empty_cache()
            block = self._take_new(pool, size)
        if block is None:
            raise OutOfDeviceMemoryError(
                f"tried to allocate {format_bytes(size_bytes)}: {format_bytes(self.allocated_bytes)} are allocated and "
                f"{format_bytes(self.reserved_bytes)} reserved of {format_bytes(self.capacity_bytes)}; "
                "use a smaller micro-batch, or expandable_segments:True if little of the reserved memory is allocated"
            )
        return block

    def _is_split(self, block: Block, wanted: int) -> bool:
        rest = block.size_bytes - wanted
        if block.pool.is_small:
            return rest >= self.rules.granule_bytes
        return wanted < self.settings.max_split_size_bytes and rest > self.rules.small_request_bytes

    def _merge(self, block: Block) -> None:
        before, after = block.previous, block.next
        if before is not None and before.is_free and before.is_mapped == block.is_mapped:
            self._remove_from_pool(before)
            block.address = before.address
            block.size_bytes += before.size_bytes
            block.previous = before.previous
            if before.previous is not None:
                before.previous.next = block
        if after is not None and after.is_free and after.is_mapped == block.is_mapped:
            self._remove_from_pool(after)
            block.size_bytes += after.size_bytes
            block.next = after.next
            if after.next is not None:
                after.next.previous = block

    def _remove_from_pool(self, block: Block) -> None:
        if block.is_mapped:
            block.pool.remove(block)
        else:
            block.pool.remove_unmapped(block)

    def _release(self, pool: Pool) -> None:
        for _, _, block in list(pool.free):
            if block.previous is None and block.next is None:
                self._give_back(block)

    def _release_oversized(self, pool: Pool, size: int) -> bool:
        """Give back the smallest sufficient block of at least ``max_split_size``, or the largest ones together."""
        limit = self.settings.max_split_size_bytes
        if limit >= UNLIMITED:
            return False
        wanted = max(size, limit)
        index = bisect_left(pool.free, (wanted,))
        if index < len(pool.free):
            self._give_back(pool.free[index][2])
            return True
        released = 0
        while released < wanted and pool.free and pool.free[-1][0] >= limit:
            released += pool.free[-1][0]
            self._give_back(pool.free[-1][2])
        return released >= wanted

    def _give_back(self, block: Block) -> None:
        block.pool.remove(block)
        self.segments -= 1
        self.reserved_bytes -= block.size_bytes

    def _reserve(self, size: int) -> bool:
        if self.reserved_bytes + size > self.capacity_bytes:
            return False
        self.reserved_bytes += size
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        return True

    def _new_address(self, size: int) -> int:
        if self.next_address is not None:
            return self.next_address
        address = self._free_address
        self._free_address += size
        return address


def _append(block: Block, before: Block | None) -> Block:
    if before is not None:
        block.insert_after(before)
    return block

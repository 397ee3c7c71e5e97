"""The caching allocator with ``expandable_segments:True``: one range of addresses per stream and pool, filled by pages.

``cuMemMap`` puts pages of 2 MiB (small pool) or 20 MiB behind a segment's addresses as they are needed. So a segment
grows where the plain allocator would make a new one. Whole free pages are given back under pressure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final

from slr_bench.predict.allocator.caching import Block, CachingAllocator, Pool
from slr_bench.predict.allocator.recording import PoolId, SegmentState
from slr_bench.predict.allocator.rules import UNLIMITED
from slr_bench.units import GIB

ADDRESS_SPACE_PART: Final = 1.125
"""Addresses that a segment reserves, as a multiple of the device's memory."""
DEFAULT_DEVICE_BYTES: Final = 1024 * GIB
"""Assumed if no capacity is given; addresses cost nothing here."""


class _Segment:
    """A range of addresses."""

    __slots__ = ("address", "page_bytes")

    def __init__(self, address: int, page_bytes: int) -> None:
        self.address = address
        self.page_bytes = page_bytes

    def down(self, address: int) -> int:
        """Return the page boundary at or before an address."""
        return address - (address - self.address) % self.page_bytes

    def up(self, address: int) -> int:
        """Return the page boundary at or after an address."""
        return address + (self.address - address) % self.page_bytes


class ExpandableAllocator(CachingAllocator):
    """A :class:`CachingAllocator` whose segments grow. Like torch's own statistic, ``segments`` does not count them.

    Segments that do not grow may be there from the start, made before the setting was switched on.
    """

    def restore(self, segments: Sequence[SegmentState]) -> dict[int, Block]:
        """Put segments into the empty allocator, and return their allocated blocks by address.

        All ranges of mapped pages of one pool belong to one segment.
        """
        alive = super().restore([segment for segment in segments if not segment.is_expandable])
        growing: dict[tuple[bool, int, PoolId], list[SegmentState]] = {}
        for segment in sorted(segments, key=lambda segment: segment.address):
            if segment.is_expandable:
                growing.setdefault((segment.is_small, segment.stream, segment.pool), []).append(segment)
        for ranges in growing.values():
            self._restore_segment(ranges, alive)
        self.reset_peaks()
        return alive

    def release(self, address: int, size_bytes: int) -> bool:
        """Give the whole pages of one free block, or a segment, back to the device; return False if it is not free."""
        for pool in self._pools.values():
            for _, _, block in pool.free:
                if block.address <= address and address + size_bytes <= block.address + block.size_bytes:
                    self._release_block(block)
                    return True
        return False

    def _restore_segment(self, ranges: Sequence[SegmentState], alive: dict[int, Block]) -> None:
        pool, page = self._pool_of(ranges[0]), self._page_bytes(ranges[0].is_small)
        mark, end = _Segment(ranges[0].base, page), ranges[0].base
        last: Block | None = None
        for segment in ranges:
            if segment.address > end:
                last = self._append_unmapped(last, Block(end, segment.address - end, pool, mark))
            last, end = self._restore_range(segment, mark, last, alive), segment.end
        rest = max(mark.address + self._address_space(page) - end, page)
        self._append_unmapped(last, Block(end, rest, pool, mark))
        self._free_address = max(self._free_address, end + rest)

    def _append_unmapped(self, last: Block | None, block: Block) -> Block:
        block.is_mapped = False
        if last is not None:
            block.insert_after(last)
        block.pool.add_unmapped(block)
        return block

    def _best_fit(self, pool: Pool, size: int) -> int:
        """Prefer, among consecutive blocks, the one that can grow to the smaller size."""
        index, count = bisect_left(pool.free, (size,)), len(pool.free)
        while index + 1 < count and _grown_bytes(pool.free[index + 1][2]) < _grown_bytes(pool.free[index][2]):
            index += 1
        return index

    def _take_new(self, pool: Pool, size: int) -> Block | None:
        block = self._first_of_room(pool, size)
        if not block.is_mapped and not self._map(block, min(block.size_bytes, size)):
            return None
        while block.size_bytes < size:
            following = block.next
            assert following is not None, "there is address space: free -> unmapped -> any"
            if not self._map(following, min(size - block.size_bytes, following.size_bytes)):
                return None
            block = following  # it was merged with the block before it
        pool.remove(block)
        return block

    def _is_split(self, block: Block, wanted: int) -> bool:
        if block.segment is None:
            return super()._is_split(block, wanted)
        return block.size_bytes - wanted >= self.rules.granule_bytes

    def _release(self, pool: Pool) -> None:
        for _, _, block in list(pool.free):
            self._release_block(block)

    def _release_block(self, block: Block) -> None:
        if block.segment is not None:
            self._unmap(block)
        elif block.previous is None and block.next is None:
            self._give_back(block)

    def _release_oversized(self, pool: Pool, size: int) -> bool:
        return False

    def _first_of_room(self, pool: Pool, size: int) -> Block:
        """Return the block at the lowest address from which free and unmapped blocks have ``size`` bytes together."""
        for _, unmapped in pool.unmapped:
            before = unmapped.previous
            first = before if before is not None and before.is_free else unmapped
            room = 0
            block: Block | None = first
            while room < size and block is not None and block.is_free:
                room += block.size_bytes
                block = block.next
            if room >= size:
                return first
        page = self._page_bytes(pool.is_small)
        addresses = self._address_space(page)
        start = self._new_address(addresses)
        block = Block(start, addresses, pool, _Segment(start, page))
        block.is_mapped = False
        pool.add_unmapped(block)
        return block

    def _page_bytes(self, is_small: bool) -> int:
        return self.rules.small_segment_bytes if is_small else self.rules.large_segment_bytes

    def _address_space(self, page: int) -> int:
        """Return the size of the range of addresses that a segment gets, in whole pages."""
        capacity = self.settings.capacity_bytes
        device_bytes = DEFAULT_DEVICE_BYTES if capacity >= UNLIMITED else capacity
        return -(-int(device_bytes * ADDRESS_SPACE_PART) // page) * page

    def _map(self, block: Block, size: int) -> bool:
        """Put whole pages behind the first ``size`` bytes of an unmapped block; return False if the device is full."""
        assert isinstance(block.segment, _Segment)
        mapped = block.segment.up(block.address + size) - block.address
        if not self._reserve(mapped):
            return False
        pool = block.pool
        pool.remove_unmapped(block)
        block.is_mapped = True
        if mapped < block.size_bytes:
            rest = Block(block.address + mapped, block.size_bytes - mapped, pool, block.segment)
            rest.is_mapped = False
            rest.insert_after(block)
            pool.add_unmapped(rest)
            block.size_bytes = mapped
        self._merge(block)
        pool.add(block)
        return True

    def _unmap(self, block: Block) -> None:
        """Give back the whole pages of a free block; the rest on either side stays free."""
        assert isinstance(block.segment, _Segment)
        pool, end = block.pool, block.address + block.size_bytes
        first, last = block.segment.up(block.address), block.segment.down(end)
        if first >= last:
            return
        pool.remove(block)
        if first > block.address:
            before = Block(block.address, first - block.address, pool, block.segment)
            before.insert_before(block)
            pool.add(before)
        if end > last:
            after = Block(last, end - last, pool, block.segment)
            after.insert_after(block)
            pool.add(after)
        block.address, block.size_bytes = first, last - first
        self.reserved_bytes -= block.size_bytes
        block.is_mapped = False
        self._merge(block)
        pool.add_unmapped(block)
        if block.previous is None and block.next is None:
            pool.remove_unmapped(block)


def _grown_bytes(block: Block) -> int:
    following = block.next
    return block.size_bytes + (following.size_bytes if following is not None and not following.is_mapped else 0)


ALLOCATORS: Final[Mapping[bool, type[CachingAllocator]]] = {False: CachingAllocator, True: ExpandableAllocator}
"""The allocator that a value of the setting ``expandable_segments`` selects."""

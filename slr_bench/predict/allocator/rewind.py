"""Undoes a snapshot's history from its end, which gives the state in which the history begins.

A snapshot has the segments as they were when it was written. Undone entry by entry, the history gives every earlier
state, so a recording that began after warm-up can be replayed, too. One thing remains unknown: a block that was freed
during the history may have been larger than its request, because a remainder of at most 1 MiB is not split off. Three
observations determine most of these sizes. An allocation right behind the block begins where the block ends. A gap of
at most 1 MiB in the large pool belongs to the block before it, because no other block there is so small. Where a free
block of more than 1 MiB must remain behind it, the block has no room to be larger.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

from slr_bench.errors import DataError
from slr_bench.predict.allocator.recording import (
    DEFAULT_POOL,
    Event,
    LiveBlock,
    PoolId,
    Recording,
    SegmentState,
    recorded_settings,
)
from slr_bench.predict.allocator.rules import AllocatorSettings, round_up

_ADVICE: Final = "call torch.cuda.memory._record_memory_history() at the start and _dump_snapshot() without stopping it"


class _ContradictionError(Exception):
    """An entry does not lead to the state after it."""


class _Range:
    """A segment, or a range of mapped pages."""

    __slots__ = ("address", "end", "is_expandable", "is_small", "pool", "stream")

    def __init__(self, address: int, size: int, is_small: bool, stream: int, pool: PoolId, is_expandable: bool) -> None:
        self.address, self.end, self.is_small = address, address + size, is_small
        self.stream, self.pool, self.is_expandable = stream, pool, is_expandable

    @property
    def key(self) -> tuple[bool, int, PoolId]:
        """The pool, which has at most one expandable segment."""
        return self.is_small, self.stream, self.pool


class _Block:
    """An allocated block. ``end`` is where it ends at the earliest, as long as its size is not certain."""

    __slots__ = ("address", "end", "is_certain", "requested_bytes")

    def __init__(self, address: int, size: int, requested_bytes: int | None, is_certain: bool) -> None:
        self.address, self.end, self.is_certain = address, address + size, is_certain
        self.requested_bytes = requested_bytes


_T = TypeVar("_T", _Range, _Block)


class _Ordered(Generic[_T]):
    """Ranges or blocks by address."""

    def __init__(self) -> None:
        self.by_address: dict[int, _T] = {}
        self.addresses: list[int] = []

    def add(self, one: _T) -> None:
        """Add a range or block.

        Raises:
            _ContradictionError: it overlaps another one.
        """
        index = bisect_left(self.addresses, one.address)
        before = self.by_address[self.addresses[index - 1]] if index else None
        after = self.by_address[self.addresses[index]] if index < len(self.addresses) else None
        if (before is not None and before.end > one.address) or (after is not None and after.address < one.end):
            raise _ContradictionError("memory is in use twice")
        self.addresses.insert(index, one.address)
        self.by_address[one.address] = one

    def remove(self, address: int) -> None:
        """Remove the range or block at an address."""
        del self.by_address[address]
        del self.addresses[bisect_left(self.addresses, address)]

    def at_or_before(self, address: int) -> _T | None:
        """Return the last one that does not begin behind an address."""
        index = bisect_right(self.addresses, address)
        return self.by_address[self.addresses[index - 1]] if index else None

    def behind(self, address: int) -> _T | None:
        """Return the first one that begins behind an address."""
        index = bisect_right(self.addresses, address)
        return self.by_address[self.addresses[index]] if index < len(self.addresses) else None


class _Rewinder:
    """The state of one device's allocator, from which entries are undone."""

    def __init__(self, segments: Sequence[Mapping[str, Any]], settings: AllocatorSettings) -> None:
        self.settings, self.rules = settings, settings.rules
        self.reserved_bytes = self.segments = 0
        self.lowest: dict[tuple[bool, int, PoolId], int] = {}
        """Lowest address of the pages that were mapped, by pool."""
        self.ranges, self.blocks = _Ordered[_Range](), _Ordered[_Block]()
        for segment in segments:
            is_expandable = bool(segment.get("is_expandable"))
            address, size = segment["address"], segment["total_size"]
            is_small = segment.get("segment_type", "small" if self._looks_small(size) else "large") == "small"
            pool = _pool_id(segment.get("segment_pool_id"))
            self._add_range(_Range(address, size, is_small, segment.get("stream", 0), pool, is_expandable))
            for block in segment["blocks"]:
                if block["state"].startswith("active"):
                    self.blocks.add(_Block(address, block["size"], block.get("requested_size"), True))
                address += block["size"]

    def undo(self, entry: Mapping[str, Any]) -> Event | None:
        """Undo an entry, and return it as an event if it is one.

        Raises:
            _ContradictionError: the entry does not lead to this state.
        """
        action = entry["action"]
        if action == "alloc":
            return self._undo_alloc(entry["addr"], entry["size"])
        if action == "free_completed":
            return self._undo_free(entry["addr"], entry["size"])
        if action == "segment_alloc":
            self._undo_segment(entry["addr"], entry["size"])
        elif action == "segment_map":
            self._undo_map(entry["addr"], entry["addr"] + entry["size"])
        elif action in ("segment_free", "segment_unmap"):
            return self._undo_release(entry, is_expandable=action == "segment_unmap")
        elif action == "oom":
            pool = _pool_id(entry.get("pool_id"))
            return Event("oom", 0, entry["size"], entry.get("stream", 0), pool, None, entry.get("device_free"))
        return None

    def start(self) -> tuple[tuple[SegmentState, ...], int]:
        """Return the state as it is now, and the number of blocks whose size is not certain."""
        found, unknown = [], 0
        for address in self.ranges.addresses:
            one = self.ranges.by_address[address]
            first, last = (bisect_left(self.blocks.addresses, edge) for edge in (one.address, one.end))
            blocks = [self.blocks.by_address[place] for place in self.blocks.addresses[first:last]]
            for place, block in enumerate(blocks, start=1):
                self._bound(block, blocks[place].address if place < len(blocks) else one.end)
                unknown += not block.is_certain
            live = tuple(
                LiveBlock(block.address, block.end - block.address, block.requested_bytes or block.end - block.address)
                for block in blocks
            )
            size, base = one.end - one.address, min(one.address, self.lowest.get(one.key, one.address))
            state = (one.address, size, one.is_small, one.stream, one.pool, one.is_expandable, base, live)
            found.append(SegmentState(*state))
        return tuple(found), unknown

    def _undo_alloc(self, address: int, size: int) -> Event:
        block = self.blocks.by_address.get(address)
        if block is None or block.requested_bytes not in (size, None):
            raise _ContradictionError(f"{size:,} bytes are allocated at {address:#x} that are not there afterwards")
        self.blocks.remove(address)
        one = self._range_at(address, block.end)
        before = self.blocks.at_or_before(address)
        if before is not None and not before.is_certain and before.address >= one.address:
            before.end, before.is_certain = address, True
        return Event("alloc", address, size, one.stream, one.pool)

    def _undo_free(self, address: int, size: int) -> Event:
        rounded = round_up(size, self.settings)
        one = self._range_at(address, address + rounded)
        block = _Block(address, rounded, size, one.is_small or one.is_expandable)
        self.blocks.add(block)
        before, after = self.blocks.at_or_before(address - 1), self.blocks.behind(address)
        if before is not None and before.address >= one.address:
            self._bound(before, address)
        self._bound(block, min(one.end, after.address) if after is not None else one.end)
        return Event("free", address, size, one.stream, one.pool)

    def _bound(self, block: _Block, following: int) -> None:
        """Use what the start of the next block, or the end of the segment, says about the size of a block."""
        if block.is_certain:
            return
        gap, least = following - block.end, self.rules.small_request_bytes
        if gap <= least or block.end - block.address >= self.settings.max_split_size_bytes:
            block.end, block.is_certain = following, True
        elif gap <= least + self.rules.granule_bytes:
            block.is_certain = True

    def _undo_segment(self, address: int, size: int) -> None:
        one = self.ranges.by_address.get(address)
        if one is None or one.end - one.address != size or one.is_expandable:
            raise _ContradictionError(f"a segment of {size:,} bytes is made that is not there afterwards")
        self._require_free(one.address, one.end)
        self._remove_range(one)

    def _undo_map(self, address: int, end: int) -> None:
        one = self._range_at(address, end)
        if not one.is_expandable:
            raise _ContradictionError("pages are mapped into a segment that cannot grow")
        self._require_free(address, end)
        self._remove_range(one)
        self.lowest[one.key] = min(address, self.lowest.get(one.key, address))
        for low, high in ((one.address, address), (end, one.end)):
            if low < high:
                self._add_range(_Range(low, high - low, one.is_small, one.stream, one.pool, True))

    def _undo_release(self, entry: Mapping[str, Any], *, is_expandable: bool) -> Event:
        address, size, stream = entry["addr"], entry["size"], entry.get("stream", 0)
        pool, is_small, end = _pool_id(entry.get("pool_id")), self._looks_small(size, is_expandable), address + size
        if is_expandable:
            before, after = self.ranges.at_or_before(address), self.ranges.behind(address)
            for one in (before, after):
                if one is not None and one.is_expandable and (one.end == address or one.address == end):
                    self._remove_range(one)
                    address, end = min(address, one.address), max(end, one.end)
                    is_small, pool = one.is_small, one.pool
        self._add_range(_Range(address, end - address, is_small, stream, pool, is_expandable))
        return Event("release", entry["addr"], size, stream, pool)

    def _looks_small(self, size: int, is_expandable: bool = False) -> bool:
        if is_expandable:
            return size % self.rules.large_segment_bytes != 0
        return size == self.rules.small_segment_bytes

    def _range_at(self, address: int, end: int) -> _Range:
        one = self.ranges.at_or_before(address)
        if one is None or one.end < end:
            raise _ContradictionError(f"there is no segment at {address:#x}")
        return one

    def _require_free(self, address: int, end: int) -> None:
        block = self.blocks.at_or_before(end - 1)
        if block is not None and block.end > address:
            raise _ContradictionError("a new segment has memory in use")

    def _add_range(self, one: _Range) -> None:
        self.ranges.add(one)
        self.reserved_bytes += one.end - one.address
        self.segments += not one.is_expandable

    def _remove_range(self, one: _Range) -> None:
        self.ranges.remove(one.address)
        self.reserved_bytes -= one.end - one.address
        self.segments -= not one.is_expandable


def _pool_id(value: object) -> PoolId:
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(part, int) for part in value):
        return value[0], value[1]
    return DEFAULT_POOL


def recording_of(
    snapshot: Mapping[str, Any], device: int | None = None, settings: AllocatorSettings | None = None
) -> Recording:
    """Extract the history of ``device``; by default of the device with the longest one.

    ``settings`` are those under which it was recorded; None takes the file's own.

    Raises:
        DataError: the file's settings are not complete, or its segments contradict each other.
    """
    traces: Sequence[Sequence[Mapping[str, Any]]] = snapshot["device_traces"]
    if device is None:
        device = max(range(len(traces)), key=lambda number: len(traces[number]), default=0)
    trace = traces[device] if 0 <= device < len(traces) else []
    own = snapshot.get("allocator_settings", {})
    segments = [segment for segment in snapshot["segments"] if segment["device"] == device]
    try:
        state = _Rewinder(segments, settings or recorded_settings(own))
    except _ContradictionError as error:
        raise DataError(f"the segments of device {device} contradict each other: {error}; record it again") from error
    allocated_at_end = sum(block.end - block.address for block in state.blocks.by_address.values())
    undone, problem = list[_Undone](), None
    for number in range(len(trace) - 1, -1, -1):
        entry, now = trace[number], (state.reserved_bytes, state.segments)
        try:
            event = state.undo(entry)
        except _ContradictionError as error:
            problem = f"entry {number} does not lead to the state behind it ({error})"
            break
        if event is not None:
            undone.append(_Undone(event, *now, number))
        elif entry["action"] in ("segment_alloc", "segment_map") and undone and undone[-1].event.kind == "alloc":
            undone[-1] = undone[-1]._replace(event=undone[-1].event._replace(new_segment=entry["addr"]))
    start, unknown = state.start()
    undone.reverse()
    return Recording(
        device=device,
        events=tuple(one.event for one in undone),
        reserved_bytes=tuple(one.reserved_bytes for one in undone),
        segments=tuple(one.segments for one in undone),
        allocated_at_end_bytes=allocated_at_end,
        settings=own,
        start=start,
        unknown_blocks=unknown,
        entries=tuple(one.entry for one in undone),
        problem=problem,
    )


class _Undone(NamedTuple):
    """An event, with what was there after it."""

    event: Event
    reserved_bytes: int
    segments: int
    entry: int

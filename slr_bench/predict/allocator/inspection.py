"""Looks into a replay: bytes over time, segments and blocks at the peak, the lines of source that hold memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from slr_bench.execute.job import JsonObject
from slr_bench.predict.allocator.caching import Block, CachingAllocator
from slr_bench.predict.allocator.recording import Recording
from slr_bench.predict.allocator.replay import START, recorded_capacity, replay_recording
from slr_bench.predict.allocator.rules import UNLIMITED, AllocatorSettings, settings_of
from slr_bench.predict.allocator.verdict import SnapshotReplay
from slr_bench.units import plain

AS_RECORDED: Final = "as recorded"
ALTERNATIVES: Final = (
    AS_RECORDED,
    "expandable_segments:True",
    "max_split_size_mb:64",
    "max_split_size_mb:256",
    "roundup_power2_divisions:4",
)
"""Settings whose effect is tried on each recording, and its own, for comparison."""
POINTS: Final = 300
"""Points of the timeline. Each is the event of its stretch with the most reserved memory."""
OLDER: Final = "older than the recording"
_LIBRARY: Final = re.compile(r"(^|[/\\])(torch|torchvision)[/\\]|\.(cpp|cc|c|h|hpp|pyx)$|^\?\?$")
"""Files of a stack that are not the user's own."""


class Point(NamedTuple):
    """The allocator after an event, in bytes."""

    event: int
    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    cached_bytes: int
    """Segments without an allocated block."""


class SegmentUse(NamedTuple):
    """A segment, or a range of mapped pages, and what is allocated in it."""

    address: int
    size_bytes: int
    is_small: bool
    is_expandable: bool
    stream: int
    allocated_bytes: int
    blocks: int
    """Number of allocated blocks."""
    largest_free_bytes: int
    used: tuple[tuple[int, int], ...]
    """Start and end of each stretch of allocated blocks, from the segment's own start."""


class Site(NamedTuple):
    """Allocations by one line of source."""

    where: str
    size_bytes: int
    allocations: int


class Alternative(NamedTuple):
    """A replay under other settings of the allocator."""

    settings: str
    peak_reserved_bytes: int
    emptied_peak_reserved_bytes: int | None
    """The same peak if the cache is emptied before the first event; None if nothing is cached then."""
    fragmentation: float | None
    out_of_memory: str | None
    served: int
    """Requests that failed when recorded and are served with these settings."""


@dataclass(frozen=True)
class Inspection:
    """The parts of a replay that its page shows."""

    points: tuple[Point, ...]
    peak_event: int | None
    """Index of the event after which most memory is reserved; None if there is none."""
    segments: tuple[SegmentUse, ...]
    """Segments at the peak, or at the end if there are no events. The largest come first."""
    sites: tuple[Site, ...]
    """Lines of source by the memory that they hold at the peak; empty if the file has no stacks."""
    alternatives: tuple[Alternative, ...]

    def to_dict(self) -> JsonObject:
        """The keys that ``slr-bench replay --out`` adds to its JSON object."""
        segments = [{key: value for key, value in one._asdict().items() if key != "used"} for one in self.segments]
        return {
            "peak_event": self.peak_event,
            "timeline": [one._asdict() for one in self.points],
            "segments_at_peak": segments,
            "by_source_line": [one._asdict() for one in self.sites],
            "alternatives": [one._asdict() for one in self.alternatives],
        }


def inspect_replay(found: SnapshotReplay) -> Inspection:
    """Replay once more and look at the peak, then replay under each alternative."""
    recording, reserved = found.recording, found.simulated.reserved_bytes
    stride = max(1, -(-len(reserved) // POINTS))
    stretches = [range(start, min(start + stride, len(reserved))) for start in range(0, len(reserved), stride)]
    sampled = {max(stretch, key=reserved.__getitem__) for stretch in stretches}
    allocated = found.simulated.allocated_bytes
    peak = max(range(len(reserved)), key=lambda index: (reserved[index], allocated[index]), default=START)
    points, at_peak, held = list[Point](), list[SegmentUse](), dict[int, int]()

    def observe(index: int, allocator: CachingAllocator, blocks: Mapping[int, Block]) -> None:
        if index in sampled:
            points.append(_point(index, allocator))
        if index == peak:
            at_peak.extend(_segments([*blocks.values(), *allocator.blocks()]))
            held.update((handle, block.requested_bytes) for handle, block in blocks.items())

    replay_recording(recording, found.settings, as_recorded=found.is_as_recorded, observe=observe)
    return Inspection(
        tuple(points),
        None if peak == START else peak,
        tuple(sorted(at_peak, key=lambda one: (-one.size_bytes, one.address))),
        _sites(recording, found.snapshot, held, peak),
        tuple(_alternatives(recording, found.settings)) if recording.allocations else (),
    )


def _point(index: int, allocator: CachingAllocator) -> Point:
    cached = sum(
        block.size_bytes
        for block in allocator.blocks()
        if block.is_mapped and (block.previous is None or not block.previous.is_mapped) and _ends_range(block)
    )
    return Point(index, allocator.requested_bytes, allocator.allocated_bytes, allocator.reserved_bytes, cached)


def _ends_range(block: Block) -> bool:
    return block.next is None or not block.next.is_mapped


def _segments(blocks: Iterable[Block]) -> Iterator[SegmentUse]:
    """Return the segments, or ranges of mapped pages, that consist of ``blocks``."""
    for first in blocks:
        if not first.is_mapped or (first.previous is not None and first.previous.is_mapped):
            continue
        used, allocated, count, largest_free = list[tuple[int, int]](), 0, 0, 0
        block: Block | None = first
        end = 0
        while block is not None and block.is_mapped:
            start, end = block.address - first.address, block.address - first.address + block.size_bytes
            if block.is_free:
                largest_free = max(largest_free, block.size_bytes)
            else:
                allocated, count = allocated + block.size_bytes, count + 1
                used.append((used.pop()[0] if used and used[-1][1] == start else start, end))
            block = block.next
        pool = first.pool
        yield SegmentUse(
            first.address,
            end,
            pool.is_small,
            first.segment is not None,
            pool.stream,
            allocated,
            count,
            largest_free,
            tuple(used),
        )


def _sites(recording: Recording, snapshot: Mapping[str, Any], held: Mapping[int, int], peak: int) -> tuple[Site, ...]:
    """Return the lines of source by the requested bytes that they hold; empty if the file has no stacks."""
    trace = snapshot["device_traces"][recording.device] if recording.entries else []
    freed = {event.handle for event in recording.events[peak + 1 :] if event.kind == "free"}
    frames: dict[int, object] = {}
    for segment in snapshot["segments"]:
        address = segment["address"]
        for block in segment["blocks"]:
            if address not in freed:
                frames[address] = block.get("frames")
            address += block["size"]
    older = set(held)
    for index in range(peak + 1):
        event = recording.events[index]
        if event.kind == "alloc" and event.handle in held:
            frames[event.handle] = trace[recording.entries[index]].get("frames")
            older.discard(event.handle)
    found: dict[str, Site] = {}
    has_stacks = False
    for handle, size in held.items():
        where = _line_of(frames.get(handle))
        has_stacks = has_stacks or where is not None
        name = where or (OLDER if handle in older else "no stack")
        before = found.get(name, Site(name, 0, 0))
        found[name] = Site(name, before.size_bytes + size, before.allocations + 1)
    return tuple(sorted(found.values(), key=lambda one: (-one.size_bytes, one.where))) if has_stacks else ()


def _line_of(frames: object) -> str | None:
    """Return the innermost line outside torch, like ``model.py:12 forward``; None without a stack."""
    if not isinstance(frames, (list, tuple)):
        return None
    known = [frame for frame in frames if isinstance(frame, dict) and isinstance(frame.get("filename"), str)]
    own = next((frame for frame in known if not _LIBRARY.search(frame["filename"])), None)
    frame = own or (known[0] if known else None)
    return None if frame is None else plain(f"{frame['filename']}:{frame.get('line')} {frame.get('name')}", 160)


def _alternatives(recording: Recording, settings: AllocatorSettings) -> Iterator[Alternative]:
    """Replay under each alternative, with the capacity of the replay or of a request that failed."""
    capacity = settings.capacity_bytes
    if capacity >= UNLIMITED:
        capacity = recorded_capacity(recording, settings) or UNLIMITED
    has_cache = any(not segment.blocks or segment.is_expandable for segment in recording.start)
    for text in ALTERNATIVES:
        if text == AS_RECORDED:
            chosen = replace(settings, capacity_bytes=capacity)
        else:
            chosen = settings_of(text, capacity, settings.rules)
        result = replay_recording(recording, chosen, as_recorded=False)
        emptied = None
        if has_cache:
            emptied = replay_recording(recording, chosen, as_recorded=False, begins_empty=True).peak_reserved_bytes
        yield Alternative(
            text, result.peak_reserved_bytes, emptied, result.fragmentation, result.out_of_memory, len(result.served)
        )

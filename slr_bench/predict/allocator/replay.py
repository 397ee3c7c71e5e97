"""Replays a history through the simulated allocator, from the state that it begins in. Imports no torch."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from slr_bench.predict.allocator.caching import Block, CachingAllocator, OutOfDeviceMemoryError
from slr_bench.predict.allocator.expandable import ALLOCATORS
from slr_bench.predict.allocator.recording import Event, Recording
from slr_bench.predict.allocator.rules import UNLIMITED, AllocatorSettings, round_up, segment_bytes

START: Final = -1
"""Index that stands for the state before the first event."""
Observer = Callable[[int, CachingAllocator, Mapping[int, Block]], None]
"""Receives the index of an event, the allocator after it, and the allocated blocks by handle."""


@dataclass(frozen=True)
class ReplayResult:
    """Bytes after each event that went through, and the allocator's peaks, which count moments within an event too."""

    requested_bytes: array[int]
    allocated_bytes: array[int]
    reserved_bytes: array[int]
    segments: array[int]
    addresses: array[int]
    """Address that each request was given; 0 for other events."""
    peak_requested_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    out_of_memory: str | None
    """The reason why the event after the last one failed; None if all went through."""
    served: tuple[int, ...]
    """Indices of the requests that failed when recorded and are served here."""
    allocated_at_end_bytes: int

    @property
    def fragmentation(self) -> float | None:
        """Fraction of the reserved peak that was never allocated at once; None if nothing was reserved."""
        reserved = self.peak_reserved_bytes
        return 1 - self.peak_allocated_bytes / reserved if reserved else None


def replay_events(
    events: Iterable[Event],
    allocator: CachingAllocator,
    alive: Mapping[int, Block] | None = None,
    *,
    as_recorded: bool = False,
    observe: Observer | None = None,
) -> ReplayResult:
    """Drive ``allocator`` with ``events``; stop at the first request that fails.

    ``alive`` are the blocks that are allocated before the first event, by handle. With ``as_recorded``, new segments
    get the recorded addresses and segments are given back where the recording gave them back. Without it, the cache
    is emptied there. ``observe`` is called before the first event, with index -1, and after each event.

    Raises:
        ValueError: a handle is freed that is not alive, or allocated while it is.
    """
    driver = _Driver(allocator, dict(alive or {}), as_recorded)
    requested, allocated, reserved, segments, addresses = (array("q") for _ in range(5))
    failure, served = None, list[int]()
    if observe is not None:
        observe(START, allocator, driver.blocks)
    for index, event in enumerate(events):
        try:
            address = driver.apply(event)
        except OutOfDeviceMemoryError as error:
            failure = str(error)
            break
        if address and event.kind == "oom":
            served.append(index)
        requested.append(allocator.requested_bytes)
        allocated.append(allocator.allocated_bytes)
        reserved.append(allocator.reserved_bytes)
        segments.append(allocator.segments)
        addresses.append(address)
        if observe is not None:
            observe(index, allocator, driver.blocks)
    columns = requested, allocated, reserved, segments, addresses
    return ReplayResult(*columns, *allocator.peaks_bytes, failure, tuple(served), allocator.allocated_bytes)


class _Driver:
    """Applies events to an allocator."""

    def __init__(self, allocator: CachingAllocator, blocks: dict[int, Block], as_recorded: bool) -> None:
        self.allocator, self.blocks, self.as_recorded = allocator, blocks, as_recorded
        self._was_release = False

    def apply(self, event: Event) -> int:
        """Apply one event, and return the address that a request was given; 0 for anything else.

        Raises:
            OutOfDeviceMemoryError: a request fails that was served when recorded.
        """
        allocator, kind = self.allocator, event.kind
        if kind == "release":
            if self.as_recorded:
                allocator.release(event.handle, event.size_bytes)
            elif not self._was_release:
                allocator.empty_cache()
            self._was_release = True
            return 0
        self._was_release = False
        if kind == "free":
            block = self.blocks.pop(event.handle, None)
            if block is None:
                raise ValueError(f"handle {event.handle} is freed and was not allocated")
            allocator.free(block)
            return 0
        if kind == "oom":
            return self._retry(event)
        if event.handle in self.blocks:
            raise ValueError(f"handle {event.handle} is allocated twice")
        if self.as_recorded:
            allocator.next_address = event.new_segment
        block = self.blocks[event.handle] = allocator.allocate(event.size_bytes, event.stream, event.pool)
        return block.address

    def _retry(self, event: Event) -> int:
        """Try a request that failed when it was recorded, and free it at once; return 0 if it fails again."""
        allocator, capacity = self.allocator, self.allocator.capacity_bytes
        if self.as_recorded:
            allocator.capacity_bytes = capacity_at_failure(event, allocator.reserved_bytes, allocator.settings)
        try:
            block = allocator.allocate(event.size_bytes, event.stream, event.pool)
        except OutOfDeviceMemoryError:
            return 0
        finally:
            allocator.capacity_bytes = capacity
        allocator.free(block)
        return block.address


def capacity_at_failure(event: Event, reserved_bytes: int, settings: AllocatorSettings) -> int:
    """Return the memory that the device had for segments when a request failed.

    It can be less than what the device had free, because a process can be limited to a part of the device.
    """
    free = UNLIMITED if event.device_free_bytes is None else event.device_free_bytes
    if not settings.expandable_segments:
        free = min(free, segment_bytes(round_up(event.size_bytes, settings), settings) - 1)
    return reserved_bytes + free


def recorded_capacity(recording: Recording, settings: AllocatorSettings) -> int | None:
    """Return the device's memory for segments at the last request that failed; None if none failed."""
    for event, reserved in zip(reversed(recording.events), reversed(recording.reserved_bytes), strict=True):
        if event.kind == "oom":
            return capacity_at_failure(event, reserved, settings)
    return None


def replay_recording(
    recording: Recording,
    settings: AllocatorSettings,
    *,
    as_recorded: bool,
    begins_empty: bool = False,
    observe: Observer | None = None,
) -> ReplayResult:
    """Replay a recording from the state that it begins in. With ``begins_empty``, its cache is emptied first."""
    can_grow = settings.expandable_segments or (as_recorded and any(one.is_expandable for one in recording.start))
    allocator = ALLOCATORS[can_grow](settings)
    alive = allocator.restore(recording.start)
    if begins_empty:
        allocator.empty_cache()
        allocator.reset_peaks()
    return replay_events(recording.events, allocator, alive, as_recorded=as_recorded, observe=observe)

"""A sequence of requests and frees through the simulated allocator, and what it held after each."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from slr_bench.predict.allocator.caching import Block, CachingAllocator, OutOfDeviceMemoryError


class Event(NamedTuple):
    """A request, or the free of one. ``handle`` tells those apart that are alive at a time."""

    kind: Literal["alloc", "free"]
    handle: int
    size_bytes: int
    stream: int = 0


@dataclass(frozen=True)
class Replayed:
    """Bytes after each event, as far as it went; the peaks are the allocator's, within an event too."""

    requested_bytes: array[int]
    allocated_bytes: array[int]
    reserved_bytes: array[int]
    segments: array[int]
    peak_requested_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    out_of_memory: str | None
    """Why the event behind the last one failed; None: all went through."""

    @property
    def fragmentation(self) -> float | None:
        """Part of what was reserved at its peak that was never allocated at once; None where nothing was reserved."""
        reserved = self.peak_reserved_bytes
        return 1 - self.peak_allocated_bytes / reserved if reserved else None


def replay(events: Iterable[Event], allocator: CachingAllocator) -> Replayed:
    """Drive ``allocator`` with ``events``; it stops at the first request that fails.

    Raises:
        ValueError: a free of a handle that is not alive, or a second request under one that is.
    """
    held: dict[int, Block] = {}
    requested, allocated, reserved, segments = (array("q") for _ in range(4))
    failure = None
    for event in events:
        if event.kind == "free":
            block = held.pop(event.handle, None)
            if block is None:
                raise ValueError(f"handle {event.handle} is freed and was not allocated")
            allocator.free(block)
        elif event.handle in held:
            raise ValueError(f"handle {event.handle} is allocated twice")
        else:
            try:
                held[event.handle] = allocator.allocate(event.size_bytes, event.stream)
            except OutOfDeviceMemoryError as error:
                failure = str(error)
                break
        requested.append(allocator.requested_bytes)
        allocated.append(allocator.allocated_bytes)
        reserved.append(allocator.reserved_bytes)
        segments.append(allocator.segments)
    return Replayed(
        requested,
        allocated,
        reserved,
        segments,
        allocator.peak_requested_bytes,
        allocator.peak_allocated_bytes,
        allocator.peak_reserved_bytes,
        failure,
    )


def recorded_addresses(addresses: Iterable[int]) -> Iterator[int]:
    """The true addresses of segments first; ascending ones where the simulation makes more than were made."""
    last = 1 << 46
    for address in addresses:
        last = max(last, address)
        yield address
    while True:
        last += 1 << 40
        yield last

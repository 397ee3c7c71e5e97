"""The history of one device's allocator: the state that it begins in, and every event after that. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple

from slr_bench.errors import ConfigError, DataError
from slr_bench.predict.allocator.rules import (
    DEFAULT_SETTINGS,
    INTERVALS,
    UNLIMITED,
    AllocatorRules,
    AllocatorSettings,
    settings_of,
)

PoolId = tuple[int, int]
"""Identifies a private pool, such as that of a CUDA graph."""
DEFAULT_POOL: Final[PoolId] = (0, 0)


class Event(NamedTuple):
    """One step of a history.

    ``alloc`` requests memory and ``free`` returns it. ``release`` gives the memory of a free segment, or of pages of an
    expandable segment, back to the device. ``oom`` is a request that failed.
    """

    kind: Literal["alloc", "free", "release", "oom"]
    handle: int
    """Identifies memory while it is alive. In a recording it is the address."""
    size_bytes: int
    stream: int = 0
    pool: PoolId = DEFAULT_POOL
    new_segment: int | None = None
    """Address of the segment that the device provided for an ``alloc``."""
    device_free_bytes: int | None = None
    """Free memory of the device at an ``oom``."""


class LiveBlock(NamedTuple):
    """An allocated block. Its size is at least the request."""

    address: int
    size_bytes: int
    requested_bytes: int


class SegmentState(NamedTuple):
    """A segment, or a range of mapped pages of an expandable segment, with its allocated blocks in ascending order."""

    address: int
    size_bytes: int
    is_small: bool
    stream: int
    pool: PoolId
    is_expandable: bool
    base: int
    """Lowest address that is known to belong to the same expandable segment."""
    blocks: tuple[LiveBlock, ...]

    @property
    def end(self) -> int:
        """The address behind the last byte."""
        return self.address + self.size_bytes


@dataclass(frozen=True)
class Recording:
    """The history of one device's allocator."""

    device: int
    events: tuple[Event, ...]
    reserved_bytes: tuple[int, ...]
    """Reserved memory after each event."""
    segments: tuple[int, ...]
    """Number of segments from ``cudaMalloc`` after each event."""
    allocated_at_end_bytes: int
    """Allocated memory after the last event, with blocks that wait for another stream."""
    settings: Mapping[str, Any]
    """The allocator's settings as the file has them."""
    start: tuple[SegmentState, ...] = ()
    """The state before the first event; empty if the history begins before the first allocation."""
    unknown_blocks: int = 0
    """Blocks of the start whose size the file does not determine. Each may be larger than its request by 1 MiB."""
    entries: tuple[int, ...] = ()
    """Number of each event's entry in the file."""
    problem: str | None = None
    """Reason why older entries of the file are left out; None if all are used."""

    @property
    def allocations(self) -> int:
        """Number of requests that were served."""
        return sum(event.kind == "alloc" for event in self.events)

    @property
    def out_of_memory(self) -> int:
        """Number of requests that failed."""
        return sum(event.kind == "oom" for event in self.events)

    @property
    def start_reserved_bytes(self) -> int:
        """Reserved memory before the first event."""
        return sum(segment.size_bytes for segment in self.start)

    @property
    def start_allocated_bytes(self) -> int:
        """Allocated memory before the first event."""
        return sum(block.size_bytes for segment in self.start for block in segment.blocks)


def recorded_settings(
    recorded: Mapping[str, Any],
    rules: AllocatorRules = DEFAULT_SETTINGS.rules,
    capacity_bytes: int = UNLIMITED,
) -> AllocatorSettings:
    """Return the settings under which a history was recorded.

    Raises:
        DataError: the file does not have them complete.
    """
    split = recorded.get("max_split_size", -1)
    divisions = tuple(recorded.get("roundup_power2_divisions", {}).values()) or (0,) * INTERVALS
    if len(divisions) != INTERVALS:
        raise DataError(
            f"the snapshot has {len(divisions)} roundup_power2_divisions, torch's allocator {INTERVALS}; "
            "give the settings with --settings"
        )
    text = recorded.get("PYTORCH_CUDA_ALLOC_CONF") or recorded.get("PYTORCH_ALLOC_CONF") or ""
    try:  # other settings are only in the text
        written = settings_of(str(text), capacity_bytes, rules)
    except ConfigError as error:
        raise DataError(f"the snapshot's settings: {error}; give the settings with --settings") from error
    return replace(
        written,
        expandable_segments=bool(recorded.get("expandable_segments", False)),
        max_split_size_bytes=UNLIMITED if split is None or split < 0 else split,
        roundup_power2_divisions=divisions,
    )

"""Replay requests and frees through the simulated allocator: events, snapshots and golden traces. Imports no torch."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from slr_bench.errors import ConfigError, DataError
from slr_bench.execute.job import JsonObject
from slr_bench.predict.allocator.caching import Block, CachingAllocator, OutOfDeviceMemoryError
from slr_bench.predict.allocator.expandable import ALLOCATORS, ExpandableAllocator
from slr_bench.predict.allocator.recording import Event, GoldenTrace, Recording, read_snapshot, recording_of
from slr_bench.predict.allocator.rules import (
    INTERVALS,
    UNLIMITED,
    AllocatorRules,
    AllocatorSettings,
    rules_of,
    settings_of,
)

_PEAKS: Final = ("peak_requested_bytes", "peak_allocated_bytes", "peak_reserved_bytes")


@dataclass(frozen=True)
class ReplayResult:
    """Bytes after each event that went through, and the allocator's peaks, which count moments within an event too."""

    requested_bytes: array[int]
    allocated_bytes: array[int]
    reserved_bytes: array[int]
    segments: array[int]
    peak_requested_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    out_of_memory: str | None
    """The reason why the event after the last one failed; None if all went through."""

    @property
    def allocated_at_end_bytes(self) -> int:
        """Allocated memory after the last event."""
        return self.allocated_bytes[-1] if self.allocated_bytes else 0

    @property
    def fragmentation(self) -> float | None:
        """Fraction of the reserved peak that was never allocated at once; None if nothing was reserved."""
        reserved = self.peak_reserved_bytes
        return 1 - self.peak_allocated_bytes / reserved if reserved else None


def replay_events(events: Iterable[Event], allocator: CachingAllocator) -> ReplayResult:
    """Drive ``allocator`` with ``events``; stop at the first request that fails.

    Raises:
        ValueError: a handle is freed that is not alive, or allocated while it is.
    """
    blocks: dict[int, Block] = {}
    requested, allocated, reserved, segments = (array("q") for _ in range(4))
    failure = None
    for event in events:
        if event.kind == "free":
            block = blocks.pop(event.handle, None)
            if block is None:
                raise ValueError(f"handle {event.handle} is freed and was not allocated")
            allocator.free(block)
        elif event.handle in blocks:
            raise ValueError(f"handle {event.handle} is allocated twice")
        else:
            try:
                blocks[event.handle] = allocator.allocate(event.size_bytes, event.stream)
            except OutOfDeviceMemoryError as error:
                failure = str(error)
                break
        requested.append(allocator.requested_bytes)
        allocated.append(allocator.allocated_bytes)
        reserved.append(allocator.reserved_bytes)
        segments.append(allocator.segments)
    return ReplayResult(requested, allocated, reserved, segments, *allocator.peaks_bytes, failure)


@dataclass(frozen=True)
class SnapshotReplay:
    """A recording beside its simulation."""

    recording: Recording
    simulated: ReplayResult
    is_as_recorded: bool
    """The settings are the recorded ones and there is no limit, so the two must agree."""
    capacity_bytes: int | None
    """The given limit."""
    first_difference: int | None
    """Index of the first event after which reserved bytes or segments differ; None if none does or settings differ."""

    def to_dict(self) -> JsonObject:
        """The JSON object of ``slr-bench replay``."""
        simulated, recording = self.simulated, self.recording
        return {
            "device": recording.device,
            "events": len(recording.events),
            "as_recorded": self.is_as_recorded,
            "first_difference": self.first_difference,
            "recorded": {
                "peak_reserved_bytes": max(recording.reserved_bytes, default=0),
                "segments": max(recording.segments, default=0),
                "allocated_at_end_bytes": recording.allocated_at_end_bytes,
                "out_of_memory": recording.out_of_memory,
            },
            "simulated": {
                **{name: getattr(simulated, name) for name in _PEAKS},
                "segments": max(simulated.segments, default=0),
                "allocated_at_end_bytes": simulated.allocated_at_end_bytes,
                "fragmentation": simulated.fragmentation,
                "out_of_memory": simulated.out_of_memory,
            },
        }


def replay_snapshot(
    path: Path, settings: str | None, capacity_bytes: int | None, device: int | None, torch_version: str
) -> SnapshotReplay:
    """Replay the snapshot at ``path``.

    ``settings`` is a text as in ``PYTORCH_ALLOC_CONF``; None keeps the file's own settings. ``device`` None takes the
    device with the longest history.

    Raises:
        ConfigError: the file is unreadable, or the settings are impossible.
        DataError: the file is not a snapshot, or its history is not complete.
    """
    recording = recording_of(read_snapshot(path), device)
    rules = rules_of(torch_version)
    capacity = UNLIMITED if capacity_bytes is None else capacity_bytes
    if settings is not None or capacity_bytes is not None:
        if settings is None:
            chosen = _recorded_settings(recording, rules, capacity)
        else:
            chosen = settings_of(settings, capacity, rules)
        simulated = replay_events(recording.events, ALLOCATORS[chosen.expandable_segments](chosen))
        return SnapshotReplay(recording, simulated, False, capacity_bytes, None)
    simulated = _replay_as_recorded(recording, rules)
    return SnapshotReplay(recording, simulated, True, None, _first_difference(recording, simulated))


def golden_differences(trace: GoldenTrace) -> list[str]:
    """Compare a golden trace with its simulation. An empty list means that they are equal to the byte.

    Compared are reserved bytes and segments after every event, allocated bytes at the end, and the three peaks.
    """
    recording = trace.recording
    simulated = _replay_as_recorded(recording, rules_of(trace.facts["torch"]))
    differences = []
    index = _first_difference(recording, simulated)
    if index is not None and index >= len(simulated.reserved_bytes):
        differences.append(f"event {index}: {simulated.out_of_memory}")
    elif index is not None:
        now = f"{simulated.reserved_bytes[index]} bytes in {simulated.segments[index]} segments"
        then = f"{recording.reserved_bytes[index]} in {recording.segments[index]}"
        differences.append(f"after event {index}: reserved {now}, recorded {then}")
    at_end = simulated.allocated_at_end_bytes
    if at_end != recording.allocated_at_end_bytes:
        differences.append(f"allocated at the end: {at_end}, recorded {recording.allocated_at_end_bytes}")
    for name in _PEAKS:
        if getattr(simulated, name) != trace.peaks[name]:
            differences.append(f"{name}: {getattr(simulated, name)}, recorded {trace.peaks[name]}")
    return differences


def _replay_as_recorded(recording: Recording, rules: AllocatorRules) -> ReplayResult:
    """Replay with the recorded settings and segment addresses; these decide between free blocks of equal size."""
    settings = _recorded_settings(recording, rules)
    if settings.expandable_segments:
        return replay_events(recording.events, ExpandableAllocator(settings))
    addresses = _segment_addresses(recording)
    return replay_events(recording.events, CachingAllocator(settings, lambda size: next(addresses)))


def _segment_addresses(recording: Recording) -> Iterator[int]:
    """The recorded addresses, then ascending ones if the simulation makes more segments."""
    last = 1 << 46
    for address in recording.segment_addresses:
        last = max(last, address)
        yield address
    while True:
        last += 1 << 40
        yield last


def _recorded_settings(
    recording: Recording, rules: AllocatorRules, capacity_bytes: int = UNLIMITED
) -> AllocatorSettings:
    """The settings under which the history was recorded.

    Raises:
        DataError: the file does not have them complete.
    """
    own = recording.settings
    split = own.get("max_split_size", -1)
    divisions = tuple(own.get("roundup_power2_divisions", {}).values()) or (0,) * INTERVALS
    if len(divisions) != INTERVALS:
        raise DataError(
            f"the snapshot has {len(divisions)} roundup_power2_divisions, torch's allocator {INTERVALS}; "
            "give the settings with --settings"
        )
    try:  # other settings are only in the text
        written = settings_of(str(own.get("PYTORCH_CUDA_ALLOC_CONF") or ""), capacity_bytes, rules)
    except ConfigError as error:
        raise DataError(f"the snapshot's settings: {error}; give the settings with --settings") from error
    return replace(
        written,
        expandable_segments=bool(own.get("expandable_segments", False)),
        max_split_size_bytes=UNLIMITED if split is None or split < 0 else split,
        roundup_power2_divisions=divisions,
    )


def _first_difference(recording: Recording, simulated: ReplayResult) -> int | None:
    for index in range(len(recording.events)):
        if index >= len(simulated.reserved_bytes):
            return index
        if simulated.reserved_bytes[index] != recording.reserved_bytes[index]:
            return index
        if simulated.segments[index] != recording.segments[index]:
            return index
    return None

"""A snapshot replayed: as it was, where the simulation must agree with the recording, or under other settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slr_bench.errors import ConfigError, DataError
from slr_bench.predict.allocator.expandable import make_allocator
from slr_bench.predict.allocator.replay import Replayed, recorded_addresses, replay
from slr_bench.predict.allocator.rules import (
    INTERVALS,
    UNLIMITED,
    AllocatorRules,
    AllocatorSettings,
    rules_of,
    settings_of,
)
from slr_bench.predict.allocator.snapshot import Recording, read_snapshot, recording_of


@dataclass(frozen=True)
class WhatIf:
    """A recording beside its simulation."""

    recording: Recording
    simulated: Replayed
    is_as_recorded: bool
    """The settings are the recorded ones and no limit was given: the two must agree."""
    capacity_bytes: int | None
    """The limit that was given."""
    first_difference: int | None
    """Number of the first event after which reserved bytes or segments differ, from 0; None: none does, or the settings
    are others."""

    def as_json(self) -> dict[str, Any]:
        """One JSON object."""
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
                "peak_requested_bytes": simulated.peak_requested_bytes,
                "peak_allocated_bytes": simulated.peak_allocated_bytes,
                "peak_reserved_bytes": simulated.peak_reserved_bytes,
                "segments": max(simulated.segments, default=0),
                "allocated_at_end_bytes": simulated.allocated_bytes[-1] if simulated.allocated_bytes else 0,
                "fragmentation": simulated.fragmentation,
                "out_of_memory": simulated.out_of_memory,
            },
        }


def what_if(
    path: Path, settings: str | None, capacity_bytes: int | None, device: int | None, torch_version: str
) -> WhatIf:
    """Replay the snapshot at ``path``; ``settings`` (of ``PYTORCH_ALLOC_CONF``) None: the file's own.

    Raises:
        ConfigError: unreadable file or impossible settings.
        DataError: no snapshot, or no whole history.
    """
    recording = recording_of(read_snapshot(path), device)
    rules = rules_of(torch_version)
    capacity = UNLIMITED if capacity_bytes is None else capacity_bytes
    chosen = recorded_settings(recording, capacity) if settings is None else settings_of(settings, capacity)
    as_recorded = settings is None and capacity_bytes is None
    simulated = (
        replay_as_recorded(recording, rules, chosen)
        if as_recorded
        else replay(recording.events, make_allocator(rules, chosen))
    )
    differs = first_difference(recording, simulated) if as_recorded else None
    return WhatIf(recording, simulated, as_recorded, capacity_bytes, differs)


def replay_as_recorded(recording: Recording, rules: AllocatorRules, settings: AllocatorSettings) -> Replayed:
    """With the segments at the addresses where they were: those decide between free blocks of equal size."""
    if settings.expandable_segments:
        return replay(recording.events, make_allocator(rules, settings))
    addresses = recorded_addresses(recording.segment_addresses)
    return replay(recording.events, make_allocator(rules, settings, lambda size: next(addresses)))


def recorded_settings(recording: Recording, capacity_bytes: int = UNLIMITED) -> AllocatorSettings:
    """The settings under which it was recorded.

    Raises:
        DataError: the file does not have them whole.
    """
    own = recording.settings
    split = own.get("max_split_size", -1)
    divisions = tuple(own.get("roundup_power2_divisions", {}).values()) or (0,) * INTERVALS
    if len(divisions) != INTERVALS:
        raise DataError(
            f"the snapshot has {len(divisions)} roundup_power2_divisions, torch's allocator {INTERVALS}; "
            "give the settings with --settings"
        )
    try:  # what else was set stands in the text alone
        written = settings_of(str(own.get("PYTORCH_CUDA_ALLOC_CONF") or ""), capacity_bytes)
    except ConfigError as error:
        raise DataError(f"the snapshot's settings: {error}; give the settings with --settings") from error
    return replace(
        written,
        expandable_segments=bool(own.get("expandable_segments", False)),
        max_split_size_bytes=UNLIMITED if split is None or split < 0 else split,
        roundup_power2_divisions=divisions,
    )


def first_difference(recording: Recording, simulated: Replayed) -> int | None:
    """Number of the first event after which reserved bytes or segments differ, from 0; None: none does."""
    for number in range(len(recording.events)):
        if number >= len(simulated.reserved_bytes):
            return number
        if simulated.reserved_bytes[number] != recording.reserved_bytes[number]:
            return number
        if simulated.segments[number] != recording.segments[number]:
            return number
    return None

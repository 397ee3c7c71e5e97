"""Compares a recorded history with its simulation: reserved bytes, segments and addresses after every event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final

from slr_bench.errors import (
    EXIT_DOES_NOT_FIT,
    EXIT_NOTHING_MEASURED,
    EXIT_OK,
    EXIT_REGRESSION,
    ConfigError,
    DataError,
)
from slr_bench.execute.job import JsonObject
from slr_bench.predict.allocator.golden import GoldenTrace
from slr_bench.predict.allocator.recording import DEFAULT_POOL, Recording, recorded_settings
from slr_bench.predict.allocator.replay import ReplayResult, recorded_capacity, replay_recording
from slr_bench.predict.allocator.rewind import recording_of
from slr_bench.predict.allocator.rules import UNLIMITED, AllocatorSettings, rules_of, settings_of
from slr_bench.predict.allocator.snapshot_file import HISTORY, read_snapshot

_PEAKS: Final = ("peak_requested_bytes", "peak_allocated_bytes", "peak_reserved_bytes")
_HOW_TO_RECORD: Final = (
    "call torch.cuda.memory._record_memory_history() before the steps, "
    "and torch.cuda.memory._dump_snapshot(FILE) after them, before the recording is stopped"
)


class Verdict(Enum):
    """The outcome of a replay."""

    AGREES = "agrees"
    DIFFERS = "differs"
    NOTHING = "nothing to check"
    FITS = "fits"
    """Other settings or another capacity were given, and all requests are served."""
    DOES_NOT_FIT = "does not fit"


EXIT_CODES: Final = {
    Verdict.AGREES: EXIT_OK,
    Verdict.DIFFERS: EXIT_REGRESSION,
    Verdict.NOTHING: EXIT_NOTHING_MEASURED,
    Verdict.FITS: EXIT_OK,
    Verdict.DOES_NOT_FIT: EXIT_DOES_NOT_FIT,
}


@dataclass(frozen=True)
class Difference:
    """The first event after which the simulation differs from the recording."""

    event: int
    """Index of the event."""
    entry: int
    """Number of the entry in the file."""
    quantity: str
    recorded: str
    simulated: str
    cause: str
    """The likely cause."""


@dataclass(frozen=True)
class AddressCheck:
    """The addresses that the allocations were given."""

    compared: int
    equal: int
    first_difference: int | None
    """Index of the first event whose address differs."""


@dataclass(frozen=True)
class SnapshotReplay:
    """The history of one device beside its simulation."""

    recording: Recording
    settings: AllocatorSettings
    simulated: ReplayResult
    is_as_recorded: bool
    """The settings are the recorded ones and no capacity is given, so the two must agree."""
    addresses: AddressCheck
    difference: Difference | None
    snapshot: Mapping[str, Any] = field(repr=False)
    """The content of the file."""
    others: tuple[SnapshotReplay, ...] = ()
    """The replays of the file's other devices that have a history."""

    @property
    def capacity_bytes(self) -> int | None:
        """The limit of a replay with other settings; None if there is none."""
        return None if self.settings.capacity_bytes >= UNLIMITED else self.settings.capacity_bytes

    @property
    def recorded_capacity_bytes(self) -> int | None:
        """Memory that the device had for segments, by the last request that failed; None if none failed."""
        capacity = recorded_capacity(self.recording, self.settings)
        return None if capacity is None or capacity >= UNLIMITED else capacity

    @property
    def first_difference(self) -> int | None:
        """Index of the first event that differs."""
        return None if self.difference is None else self.difference.event

    @property
    def verdict(self) -> Verdict:
        """The outcome for this device alone."""
        if not self.recording.allocations:
            return Verdict.NOTHING
        if not self.is_as_recorded:
            return Verdict.FITS if self.simulated.out_of_memory is None else Verdict.DOES_NOT_FIT
        return Verdict.AGREES if self.difference is None else Verdict.DIFFERS

    @property
    def exit_code(self) -> int:
        """The exit code of the command: a difference on any device counts."""
        verdicts = {self.verdict, *(other.verdict for other in self.others)}
        return EXIT_CODES[Verdict.DIFFERS if Verdict.DIFFERS in verdicts else self.verdict]

    @property
    def nothing_reason(self) -> str | None:
        """The reason why there is nothing to check; None if there is something."""
        recording = self.recording
        if recording.allocations:
            return None
        if recording.problem is not None:
            return f"{recording.problem}: the recording ended before the file was written; {_HOW_TO_RECORD}"
        if not recording.events:
            return f"the file has no history of device {recording.device}; {_HOW_TO_RECORD}"
        return f"the history of device {recording.device} has no allocation; {_HOW_TO_RECORD}"

    def to_dict(self) -> JsonObject:
        """The JSON object of ``slr-bench replay``."""
        simulated, recording = self.simulated, self.recording
        return {
            "device": recording.device,
            "verdict": self.verdict.value,
            "reason": self.nothing_reason,
            "events": len(recording.events),
            "allocations": recording.allocations,
            "streams": len({event.stream for event in recording.events}),
            "as_recorded": self.is_as_recorded,
            "capacity_bytes": self.capacity_bytes,
            "first_difference": self.first_difference,
            "difference": None if self.difference is None else asdict(self.difference),
            "addresses": asdict(self.addresses),
            "left_out": recording.problem,
            "start": {
                "segments": len(recording.start),
                "reserved_bytes": recording.start_reserved_bytes,
                "allocated_bytes": recording.start_allocated_bytes,
                "blocks": sum(len(segment.blocks) for segment in recording.start),
                "blocks_of_unknown_size": recording.unknown_blocks,
            },
            "recorded": {
                "peak_reserved_bytes": max(recording.reserved_bytes, default=recording.start_reserved_bytes),
                "segments": max(recording.segments, default=len(recording.start)),
                "allocated_at_end_bytes": recording.allocated_at_end_bytes,
                "out_of_memory": recording.out_of_memory,
                "capacity_bytes": self.recorded_capacity_bytes,
            },
            "simulated": {
                **{name: getattr(simulated, name) for name in _PEAKS},
                "segments": max(simulated.segments, default=len(recording.start)),
                "allocated_at_end_bytes": simulated.allocated_at_end_bytes,
                "fragmentation": simulated.fragmentation,
                "out_of_memory": simulated.out_of_memory,
                "served_after_out_of_memory": len(simulated.served),
            },
            "devices": [
                {
                    "device": one.recording.device,
                    "verdict": one.verdict.value,
                    "events": len(one.recording.events),
                    "allocations": one.recording.allocations,
                    "first_difference": one.first_difference,
                }
                for one in sorted((self, *self.others), key=lambda one: one.recording.device)
            ],
        }


def replay_snapshot(
    path: Path, settings: str | None, capacity_bytes: int | None, device: int | None, torch_version: str
) -> SnapshotReplay:
    """Replay the snapshot at ``path``.

    ``settings`` is a text as in ``PYTORCH_ALLOC_CONF``; None keeps the file's own settings. Without ``capacity_bytes``,
    other settings have the capacity that an out-of-memory entry of the file gives. ``device`` None takes the device
    with the longest history, and compares the others, too.

    Raises:
        ConfigError: the file is unreadable, or the settings are impossible.
        DataError: the file is not a snapshot, or it lacks its settings.
    """
    snapshot = read_snapshot(path)
    rules = rules_of(torch_version)
    given = None if settings is None else settings_of(settings, rules=rules)
    try:
        own = recorded_settings(_settings_of_file(snapshot), rules)
    except DataError:
        if given is None:
            raise
        own = given
    found = []
    for number in _devices(snapshot, device):
        recording = recording_of(snapshot, number, own)
        if given is None and capacity_bytes is None:
            found.append(compare_recording(recording, own, snapshot))
        else:
            capacity = capacity_bytes or recorded_capacity(recording, own) or UNLIMITED
            chosen = replace(given or own, capacity_bytes=capacity)
            simulated = replay_recording(recording, chosen, as_recorded=False)
            found.append(SnapshotReplay(recording, chosen, simulated, False, AddressCheck(0, 0, None), None, snapshot))
    return replace(found[0], others=tuple(found[1:]))


def compare_recording(recording: Recording, settings: AllocatorSettings, snapshot: Mapping[str, Any]) -> SnapshotReplay:
    """Replay a recording as it was recorded, and compare every event."""
    simulated = replay_recording(recording, settings, as_recorded=True)
    checked = [
        (index, event.handle == address)
        for index, (event, address) in enumerate(zip(recording.events, simulated.addresses, strict=True))
        if event.kind == "alloc"
    ]
    first = next((index for index, is_equal in checked if not is_equal), None)
    addresses = AddressCheck(len(checked), sum(is_equal for _, is_equal in checked), first)
    difference = _first_difference(recording, simulated, None if recording.unknown_blocks else first)
    return SnapshotReplay(recording, settings, simulated, True, addresses, difference, snapshot)


def _first_difference(recording: Recording, simulated: ReplayResult, other_address: int | None) -> Difference | None:
    """Return the first difference. ``other_address`` is the first event with another address, if it counts."""
    served = set(simulated.served)
    events = len(recording.events)
    for index in range(events):
        reserved = recording.reserved_bytes[index], simulated.reserved_bytes[index]
        segments = recording.segments[index], simulated.segments[index]
        if index in served:
            return _difference(recording, index, "request", "out of memory", "served")
        if reserved[0] != reserved[1]:
            return _difference(recording, index, "reserved bytes", *(f"{one:,}" for one in reserved))
        if segments[0] != segments[1]:
            return _difference(recording, index, "segments", *(f"{one:,}" for one in segments))
        if index == other_address:
            addresses = recording.events[index].handle, simulated.addresses[index]
            return _difference(recording, index, "address", *(f"{one:#x}" for one in addresses))
    at_end = recording.allocated_at_end_bytes, simulated.allocated_at_end_bytes
    if events and at_end[0] != at_end[1]:
        return _difference(recording, events - 1, "allocated bytes at the end", *(f"{one:,}" for one in at_end))
    return None


def _difference(recording: Recording, index: int, quantity: str, recorded: str, simulated: str) -> Difference:
    if recording.unknown_blocks:
        cause = (
            f"{recording.unknown_blocks:,} blocks are older than the recording, and the file does not determine their "
            "size: each may be up to 1 MiB larger than its request"
        )
    elif recording.problem is not None:
        cause = f"the file lacks entries: {recording.problem}"
    elif recording.events[index].pool != DEFAULT_POOL:
        cause = "it concerns a private pool, such as that of a CUDA graph; the file may have only a part of its history"
    elif not recording.settings:
        cause = "the file does not name the allocator's settings, and torch's defaults are assumed"
    else:
        cause = (
            "the allocator followed other rules: another release of torch (--torch), another backend, "
            "or a setting that was changed while the process ran"
        )
    return Difference(index, recording.entries[index], quantity, recorded, simulated, cause)


def _settings_of_file(snapshot: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the file's settings. A file without them shows at least whether its segments can grow."""
    own = snapshot.get("allocator_settings", {})
    if "expandable_segments" in own:
        return own  # type: ignore[no-any-return]
    grows = any(segment.get("is_expandable") for segment in snapshot["segments"]) or any(
        entry["action"] == "segment_map" for trace in snapshot["device_traces"] for entry in trace
    )
    return {**own, "expandable_segments": grows}


def _devices(snapshot: Mapping[str, Any], device: int | None) -> list[int]:
    """Return the devices to replay: those with a history, the longest one first; else one that has segments."""
    traces = snapshot["device_traces"]
    used = [number for number, trace in enumerate(traces) if any(entry["action"] in HISTORY for entry in trace)]
    with_segments = {one["device"] for one in snapshot["segments"]}
    if device is not None:
        if device >= len(traces) and device not in with_segments:
            names = ", ".join(map(str, sorted({*used, *with_segments}))) or "none"
            raise ConfigError(f"--device {device}: the file does not have this device; it has memory of {names}")
        return [device]
    return sorted(used, key=lambda number: -len(traces[number])) or [min(with_segments, default=0)]


def golden_differences(trace: GoldenTrace) -> list[str]:
    """Compare a golden trace with its simulation. An empty list means that they are equal to the byte.

    Compared are reserved bytes, segments and addresses after every event, allocated bytes at the end, and the three
    peaks.
    """
    recording = trace.recording
    found = compare_recording(
        recording, recorded_settings(recording.settings, rules_of(trace.facts["torch"])), trace.history
    )
    lines = []
    if found.difference is not None:
        one = found.difference
        lines.append(f"after event {one.event}: {one.quantity} {one.simulated}, recorded {one.recorded}")
    for name in _PEAKS:
        if getattr(found.simulated, name) != trace.peaks[name]:
            lines.append(f"{name}: {getattr(found.simulated, name)}, recorded {trace.peaks[name]}")
    return lines

"""Golden traces: allocator histories recorded on a GPU, small enough to be committed, replayed without one. No torch.

A file is gzip'd JSON. ``events`` has the requested bytes of an allocation as a positive number, and of a free the
allocation's number, from 1, as a negative one; ``changes`` has ``[event, reserved, segments]`` where the device's
memory was asked for or given back before that event.

The history of the format: 1 - as above.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from slr_bench.errors import DataError
from slr_bench.predict.allocator.replay import Event
from slr_bench.predict.allocator.replay_snapshot import first_difference, recorded_settings, replay_as_recorded
from slr_bench.predict.allocator.rules import rules_of
from slr_bench.predict.allocator.snapshot import Recording, recording_of

SCHEMA: Final = 1
SUFFIX: Final = ".json.gz"
PEAKS: Final = ("peak_requested_bytes", "peak_allocated_bytes", "peak_reserved_bytes")


@dataclass(frozen=True)
class GoldenTrace:
    """One setting's steps on a GPU: what its allocator did, and what was measured beside."""

    setting: Mapping[str, Any]
    """``workload``, ``arm``, ``cell_id``, ``setting``."""
    facts: Mapping[str, Any]
    """``gpu``, ``torch``, ``cuda``, ``driver`` and so on."""
    recording: Recording
    peaks: Mapping[str, int]
    """``PEAKS``, from the first byte on, by torch's own counters."""
    steady_peaks: Mapping[str, int]
    """Of the last step."""
    nvml_process_bytes: int | None
    context: Mapping[str, Any]
    """Beside the allocator: ``bytes``, ``source``, ``reason``."""


def golden_trace(setting: Mapping[str, Any], found: Mapping[str, Any]) -> GoldenTrace:
    """From what ``run.calibration_cell`` recorded.

    Raises:
        DataError: the history is not whole.
    """
    measured = {name: found[name] for name in ("facts", "peaks", "steady_peaks", "nvml_process_bytes", "context")}
    return GoldenTrace(setting, recording=recording_of(found["history"], 0), **measured)


def differences(trace: GoldenTrace) -> list[str]:
    """Where the simulated allocator says otherwise than the recording; empty: equal to the byte.

    Compared: reserved bytes and segments after every event, allocated bytes at the end, and the three peaks.
    """
    recording = trace.recording
    simulated = replay_as_recorded(recording, rules_of(trace.facts["torch"]), recorded_settings(recording))
    found = []
    place = first_difference(recording, simulated)
    if place is not None and place >= len(simulated.reserved_bytes):
        found.append(f"event {place}: {simulated.out_of_memory}")
    elif place is not None:
        now = f"{simulated.reserved_bytes[place]} bytes in {simulated.segments[place]} segments"
        then = f"{recording.reserved_bytes[place]} in {recording.segments[place]}"
        found.append(f"after event {place}: reserved {now}, recorded {then}")
    at_end = simulated.allocated_bytes[-1] if simulated.allocated_bytes else 0
    if at_end != recording.allocated_at_end_bytes:
        found.append(f"allocated at the end: {at_end}, recorded {recording.allocated_at_end_bytes}")
    for name in PEAKS:
        if getattr(simulated, name) != trace.peaks[name]:
            found.append(f"{name}: {getattr(simulated, name)}, recorded {trace.peaks[name]}")
    return found


def write_golden(trace: GoldenTrace, path: Path) -> None:
    """The same trace gives the same file."""
    recording = trace.recording
    content = {
        "schema": SCHEMA,
        **trace.setting,
        "facts": trace.facts,
        "peaks": trace.peaks,
        "steady_peaks": trace.steady_peaks,
        "nvml_process_bytes": trace.nvml_process_bytes,
        "context": trace.context,
        "allocator_settings": recording.settings,
        "allocated_at_end_bytes": recording.allocated_at_end_bytes,
        "out_of_memory": recording.out_of_memory,
        "segment_addresses": recording.segment_addresses,
        **_packed(recording),
    }
    path.write_bytes(gzip.compress(json.dumps(content, separators=(",", ":")).encode(), 9, mtime=0))


def read_golden(path: Path) -> GoldenTrace:
    """A file of :func:`write_golden`.

    Raises:
        DataError: it is none, damaged, or of another schema.
    """
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
        if content["schema"] != SCHEMA:
            raise DataError(f"{path} has schema {content['schema']}, known is {SCHEMA}; record it anew: make calibrate")
        return GoldenTrace(
            {name: content[name] for name in ("workload", "arm", "cell_id", "setting")},
            content["facts"],
            _unpacked(content),
            content["peaks"],
            content["steady_peaks"],
            content["nvml_process_bytes"],
            content["context"],
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"{path} is no golden trace ({type(error).__name__}: {error}); record it: make calibrate"
        ) from error


def _packed(recording: Recording) -> dict[str, Any]:
    numbers: dict[int, int] = {}
    streams: dict[int, int] = {}
    events: list[int] = []
    changes: list[tuple[int, int, int]] = []
    made, before = 0, (0, 0)
    for place, event in enumerate(recording.events):
        if event.kind == "alloc":
            made += 1
            numbers[event.handle] = made
            events.append(event.size_bytes)
            if event.stream:
                streams[made] = event.stream
        else:
            events.append(-numbers.pop(event.handle))
        now = recording.reserved_bytes[place], recording.segments[place]
        if now != before:
            changes.append((place, *now))
            before = now
    return {"events": events, "streams": streams, "changes": changes}


def _unpacked(content: Mapping[str, Any]) -> Recording:
    changes = {place: (reserved, segments) for place, reserved, segments in content["changes"]}
    streams = {int(number): stream for number, stream in content["streams"].items()}
    sizes: list[int] = []
    events, reserved_after, segments_after = [], [], []
    reserved = segments = 0
    for place, value in enumerate(content["events"]):
        number = -value if value < 0 else len(sizes) + 1
        if value >= 0:
            sizes.append(value)
        kind: Any = "free" if value < 0 else "alloc"
        events.append(Event(kind, number, sizes[number - 1], streams.get(number, 0)))
        reserved, segments = changes.get(place, (reserved, segments))
        reserved_after.append(reserved)
        segments_after.append(segments)
    return Recording(
        device=0,
        events=tuple(events),
        reserved_bytes=tuple(reserved_after),
        segments=tuple(segments_after),
        segment_addresses=tuple(content["segment_addresses"]),
        allocated_at_end_bytes=content["allocated_at_end_bytes"],
        out_of_memory=content["out_of_memory"],
        settings=content["allocator_settings"],
    )

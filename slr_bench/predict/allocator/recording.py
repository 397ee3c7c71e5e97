"""Histories of torch's CUDA allocator, read from a memory snapshot or from a golden trace. Imports no torch.

A snapshot is a file of ``torch.cuda.memory._dump_snapshot``. It is a pickle, and a pickle can name any function to
call. Snapshots hold dicts, lists, texts and numbers only, so nothing else is loaded.

A golden trace was recorded on a GPU and is small enough to be committed. Its file is gzip'd JSON. ``events`` has the
requested bytes of an allocation as a positive number. A free is the number of its allocation, counted from 1, as a
negative number. ``changes`` has ``[event, reserved, segments]`` where the device's memory changed before that event.

The history of the golden format: 1 - as above.
"""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, NoReturn

from slr_bench.errors import ConfigError, DataError

SCHEMA: Final = 1
SUFFIX: Final = ".json.gz"
_MEASURED: Final = ("facts", "peaks", "steady_peaks", "nvml_process_bytes", "context")
"""Fields of a golden trace beside its setting and its history."""
_SEGMENT_ACTIONS: Final = {"segment_alloc": 1, "segment_map": 1, "segment_free": -1, "segment_unmap": -1}
_SIZED: Final = {*_SEGMENT_ACTIONS, "alloc", "free_requested", "free_completed"}
_KINDS: Final[Mapping[str, Literal["alloc", "free"]]] = {"alloc": "alloc", "free_completed": "free"}


class Event(NamedTuple):
    """A request for memory, or its free. ``handle`` identifies it while it is alive."""

    kind: Literal["alloc", "free"]
    handle: int
    size_bytes: int
    stream: int = 0


@dataclass(frozen=True)
class Recording:
    """The history of one device's allocator."""

    device: int
    events: tuple[Event, ...]
    reserved_bytes: tuple[int, ...]
    """Reserved memory after each event."""
    segments: tuple[int, ...]
    """Number of segments from ``cudaMalloc`` after each event."""
    segment_addresses: tuple[int, ...]
    """Addresses in the order in which the segments were made."""
    allocated_at_end_bytes: int
    out_of_memory: int
    """Number of requests that failed."""
    settings: Mapping[str, Any]
    """The allocator's settings as the file has them."""


def read_snapshot(path: Path) -> Mapping[str, Any]:
    """Read a memory snapshot without running anything in it.

    Raises:
        ConfigError: the file cannot be read.
        DataError: it is not a snapshot, or holds more than plain values.
    """
    try:
        with path.open("rb") as file:
            content = _PlainUnpickler(file).load()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; check the path") from error
    except Exception as error:  # a damaged pickle raises almost anything
        raise DataError(
            f"{path} is no memory snapshot: {error}; make one with torch.cuda.memory._dump_snapshot"
        ) from error
    if not isinstance(content, dict) or not {"segments", "device_traces"} <= content.keys():
        raise DataError(f"{path} is no memory snapshot: it has no segments and device_traces")
    problem = _snapshot_problem(content)
    if problem is not None:
        raise DataError(f"{path} is damaged, or of another format: {problem}; record it again")
    return content


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it wants to load {module}.{name}; a snapshot holds plain values only")


def _snapshot_problem(snapshot: Mapping[str, Any]) -> str | None:
    """The first difference from what torch writes."""
    traces, segments = snapshot["device_traces"], snapshot["segments"]
    if not isinstance(traces, list) or not all(isinstance(trace, list) for trace in traces):
        return "device_traces is no list of lists"
    for device, trace in enumerate(traces):
        for number, entry in enumerate(trace):
            if not isinstance(entry, dict) or not isinstance(entry.get("action"), str):
                return f"entry {number} of device {device} has no action"
            if entry["action"] in _SIZED and not all(_is_count(entry.get(name)) for name in ("addr", "size")):
                return f"entry {number} of device {device} has no address and size"
    if not isinstance(segments, list) or not all(
        isinstance(segment, dict) and _is_count(segment.get("allocated_size")) and _is_count(segment.get("device"))
        for segment in segments
    ):
        return "a segment has no device and allocated_size"
    is_dictionary = isinstance(snapshot.get("allocator_settings", {}), dict)
    return None if is_dictionary else "allocator_settings is no dictionary"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def recording_of(snapshot: Mapping[str, Any], device: int | None = None) -> Recording:
    """Extract the history of ``device``; by default of the device with the longest one.

    Raises:
        DataError: there is no history, or it begins in the middle.
    """
    traces = snapshot["device_traces"]
    if device is None:
        device = max(range(len(traces)), key=lambda number: len(traces[number]), default=0)
    trace = traces[device] if 0 <= device < len(traces) else []
    if not trace:
        raise DataError(
            f"the snapshot has no history of device {device}; "
            "call torch.cuda.memory._record_memory_history(stacks='python') before the first allocation"
        )
    reserved = segments = 0
    events, reserved_after, segments_after, addresses = [], [], [], []
    for entry in trace:
        action = entry["action"]
        if action in _SEGMENT_ACTIONS:
            sign = _SEGMENT_ACTIONS[action]
            reserved += sign * entry["size"]
            if action.endswith(("alloc", "free")):
                segments += sign
            if action == "segment_alloc":
                addresses.append(entry["addr"])
            if reserved < 0 or segments < 0:
                raise _begins_late(device)
        elif action in _KINDS:
            events.append(Event(_KINDS[action], entry["addr"], entry["size"], entry.get("stream", 0)))
            reserved_after.append(reserved)
            segments_after.append(segments)
    _require_complete(events, device)
    return Recording(
        device=device,
        events=tuple(events),
        reserved_bytes=tuple(reserved_after),
        segments=tuple(segments_after),
        segment_addresses=tuple(addresses),
        allocated_at_end_bytes=sum(s["allocated_size"] for s in snapshot["segments"] if s["device"] == device),
        out_of_memory=sum(entry["action"] == "oom" for entry in trace),
        settings=snapshot.get("allocator_settings", {}),
    )


def _require_complete(events: list[Event], device: int) -> None:
    alive: set[int] = set()
    for event in events:
        if event.kind == "alloc":
            if event.handle in alive:
                raise DataError(f"the history of device {device} gives out an address twice; record it again")
            alive.add(event.handle)
        elif event.handle in alive:
            alive.remove(event.handle)
        else:
            raise _begins_late(device)


def _begins_late(device: int) -> DataError:
    return DataError(
        f"the history of device {device} begins in the middle: something is freed that it never allocated; "
        "record from before the first allocation on, and with max_entries large enough"
    )


@dataclass(frozen=True)
class GoldenTrace:
    """One setting's steps on a GPU: what its allocator did, and what was measured beside it."""

    setting: Mapping[str, Any]
    """``workload``, ``arm``, ``cell_id``, ``setting``."""
    facts: Mapping[str, Any]
    """``gpu``, ``torch``, ``cuda``, ``driver`` and so on."""
    recording: Recording
    peaks: Mapping[str, int]
    """Requested, allocated and reserved peaks from the first byte on, by torch's own counters."""
    steady_peaks: Mapping[str, int]
    """The same peaks of the last step."""
    nvml_process_bytes: int | None
    context: Mapping[str, Any]
    """Memory beside the allocator: ``bytes``, ``source``, ``reason``."""

    @classmethod
    def from_steps(cls, setting: Mapping[str, Any], steps: Mapping[str, Any]) -> GoldenTrace:
        """Make a trace of what ``worker.calibrate`` recorded.

        Raises:
            DataError: the history is not complete.
        """
        return cls(setting, recording=recording_of(steps["history"], 0), **{name: steps[name] for name in _MEASURED})


def write_golden(trace: GoldenTrace, path: Path) -> None:
    """Write a golden trace; equal traces give equal files."""
    recording = trace.recording
    content = {
        "schema": SCHEMA,
        **trace.setting,
        **{name: getattr(trace, name) for name in _MEASURED},
        "allocator_settings": recording.settings,
        "allocated_at_end_bytes": recording.allocated_at_end_bytes,
        "out_of_memory": recording.out_of_memory,
        "segment_addresses": recording.segment_addresses,
        **_pack_events(recording),
    }
    path.write_bytes(gzip.compress(json.dumps(content, separators=(",", ":")).encode(), 9, mtime=0))


def read_golden(path: Path) -> GoldenTrace:
    """Read a file of :func:`write_golden`.

    Raises:
        DataError: the file is missing or damaged, or has another schema.
    """
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
        if content["schema"] != SCHEMA:
            raise DataError(f"{path} has schema {content['schema']}, known is {SCHEMA}; record it anew: make calibrate")
        setting = {name: content[name] for name in ("workload", "arm", "cell_id", "setting")}
        measured = {name: content[name] for name in _MEASURED}
        return GoldenTrace(setting, recording=_unpack_events(content), **measured)
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"{path} is no golden trace ({type(error).__name__}: {error}); record it: make calibrate"
        ) from error


def _pack_events(recording: Recording) -> Mapping[str, Any]:
    numbers: dict[int, int] = {}
    streams: dict[int, int] = {}
    events: list[int] = []
    changes: list[tuple[int, int, int]] = []
    allocations, before = 0, (0, 0)
    for index, event in enumerate(recording.events):
        if event.kind == "alloc":
            allocations += 1
            numbers[event.handle] = allocations
            events.append(event.size_bytes)
            if event.stream:
                streams[allocations] = event.stream
        else:
            events.append(-numbers.pop(event.handle))
        now = recording.reserved_bytes[index], recording.segments[index]
        if now != before:
            changes.append((index, *now))
            before = now
    return {"events": events, "streams": streams, "changes": changes}


def _unpack_events(content: Mapping[str, Any]) -> Recording:
    changes = {index: (reserved, segments) for index, reserved, segments in content["changes"]}
    streams = {int(number): stream for number, stream in content["streams"].items()}
    sizes: list[int] = []
    events, reserved_after, segments_after = [], [], []
    reserved = segments = 0
    for index, value in enumerate(content["events"]):
        number = -value if value < 0 else len(sizes) + 1
        if value >= 0:
            sizes.append(value)
        events.append(Event("free" if value < 0 else "alloc", number, sizes[number - 1], streams.get(number, 0)))
        reserved, segments = changes.get(index, (reserved, segments))
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

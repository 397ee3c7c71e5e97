"""A ``torch.cuda.memory._dump_snapshot`` file, read without running anything that is in it.

The file is a pickle; a pickle can name any function to call. Snapshots hold dicts, lists, texts and numbers alone, so
nothing else is let in.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from slr_bench.errors import ConfigError, DataError
from slr_bench.predict.allocator.replay import Event

_SEGMENT_ACTIONS = {"segment_alloc": 1, "segment_map": 1, "segment_free": -1, "segment_unmap": -1}
_SIZED = {*_SEGMENT_ACTIONS, "alloc", "free_requested", "free_completed"}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it wants to load {module}.{name}; a snapshot holds plain values only")


@dataclass(frozen=True)
class Recording:
    """What one device's allocator did."""

    device: int
    events: tuple[Event, ...]
    reserved_bytes: tuple[int, ...]
    """After each event, as it was recorded."""
    segments: tuple[int, ...]
    """From ``cudaMalloc``, after each event."""
    segment_addresses: tuple[int, ...]
    """In the order in which they were made."""
    allocated_at_end_bytes: int
    out_of_memory: int
    """Times that it was."""
    settings: Mapping[str, Any]
    """The allocator's own, as the file has them."""


def read_snapshot(path: Path) -> dict[str, Any]:
    """The file's content.

    Raises:
        ConfigError: it cannot be read.
        DataError: it is no snapshot, or holds more than plain values.
    """
    try:
        with path.open("rb") as file:
            found = _Plain(file).load()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; check the path") from error
    except Exception as error:  # a damaged pickle raises almost anything
        raise DataError(
            f"{path} is no memory snapshot: {error}; make one with torch.cuda.memory._dump_snapshot"
        ) from error
    if not isinstance(found, dict) or not {"segments", "device_traces"} <= found.keys():
        raise DataError(f"{path} is no memory snapshot: it has no segments and device_traces")
    wrong = _what_is_wrong(found)
    if wrong is not None:
        raise DataError(f"{path} is damaged, or of another format: {wrong}; record it again")
    return found


def _what_is_wrong(snapshot: Mapping[str, Any]) -> str | None:
    """The first thing that a snapshot does not have as torch writes it."""
    traces, segments, settings = (
        snapshot["device_traces"],
        snapshot["segments"],
        snapshot.get("allocator_settings", {}),
    )
    if not isinstance(traces, list) or not all(isinstance(trace, list) for trace in traces):
        return "device_traces is no list of lists"
    for device, trace in enumerate(traces):
        for number, entry in enumerate(trace):
            if not isinstance(entry, dict) or not isinstance(entry.get("action"), str):
                return f"entry {number} of device {device} has no action"
            if entry["action"] in _SIZED and not all(_is_count(entry.get(name)) for name in ("addr", "size")):
                return f"entry {number} of device {device} has no address and size"
    if not isinstance(segments, list) or not all(
        isinstance(one, dict) and _is_count(one.get("allocated_size")) and _is_count(one.get("device"))
        for one in segments
    ):
        return "a segment has no device and allocated_size"
    return None if isinstance(settings, dict) else "allocator_settings is no dictionary"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def recording_of(snapshot: Mapping[str, Any], device: int | None = None) -> Recording:
    """The history of ``device``; by default of the one with the longest.

    Raises:
        DataError: no history, or one that begins in the middle.
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
        for event in _events(entry):
            events.append(event)
            reserved_after.append(reserved)
            segments_after.append(segments)
    _require_all_known(events, device)
    at_end = sum(s["allocated_size"] for s in snapshot["segments"] if s["device"] == device)
    return Recording(
        device=device,
        events=tuple(events),
        reserved_bytes=tuple(reserved_after),
        segments=tuple(segments_after),
        segment_addresses=tuple(addresses),
        allocated_at_end_bytes=at_end,
        out_of_memory=sum(entry["action"] == "oom" for entry in trace),
        settings=snapshot.get("allocator_settings", {}),
    )


def _events(entry: Mapping[str, Any]) -> Iterator[Event]:
    kinds: dict[str, Literal["alloc", "free"]] = {"alloc": "alloc", "free_completed": "free"}
    kind = kinds.get(entry["action"])
    if kind is not None:
        yield Event(kind, entry["addr"], entry["size"], entry.get("stream", 0))


def _require_all_known(events: list[Event], device: int) -> None:
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

"""Reads memory snapshots of torch: pickles, JSON exports, and pages of ``torch.cuda._memory_viz``. Imports no torch.

A snapshot is a file of ``torch.cuda.memory._dump_snapshot``. It is a pickle, and a pickle can name any function to
call. Snapshots hold dictionaries, lists, texts and numbers only, so nothing else is loaded.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from slr_bench.errors import ConfigError, DataError
from slr_bench.predict.allocator.rules import UNLIMITED
from slr_bench.units import plain

HISTORY: Final = frozenset(
    ("alloc", "free_requested", "free_completed", "segment_alloc", "segment_free", "segment_map", "segment_unmap")
)
"""Entries that have an address and a size."""
_EMBEDDED: Final = re.compile(rb'"base64"\s*:\s*"([A-Za-z0-9+/=]+)"')
_CURE: Final = "give a file of torch.cuda.memory._dump_snapshot"


def read_snapshot(path: Path) -> Mapping[str, Any]:
    """Read a memory snapshot without running anything in it.

    Raises:
        ConfigError: the file cannot be read.
        DataError: it is not a snapshot, or holds more than plain values.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; check the path") from error
    try:
        content = _parse(data)
    except DataError as error:
        raise DataError(f"{path} is no memory snapshot: {error}; {_CURE}") from error
    foreign = _foreign_kind(content)
    if foreign is not None:
        raise DataError(f"{path} is no memory snapshot: it is {foreign}; {_CURE}")
    problem = _first_problem(content)
    if problem is not None:
        raise DataError(f"{path} is damaged, or of another format: {problem}; record it again")
    return content  # type: ignore[no-any-return]


def _parse(data: bytes) -> Any:
    """Return the content of a pickle, of JSON, or of the pickle in an HTML page; any of them may be gzip'd.

    Raises:
        DataError: it is none of them. The message is the reason only.
    """
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    try:
        if not data:
            raise DataError("the file is empty")
        if start.startswith(b"\x1f\x8b"):
            return _parse(gzip.decompress(data))
        if start.startswith(b"<"):
            embedded = _EMBEDDED.search(data)
            if embedded is None:
                raise DataError("it is an HTML page without a snapshot in it")
            return _PlainUnpickler(io.BytesIO(base64.b64decode(embedded[1]))).load()
        if start.startswith((b"{", b"[")):
            return json.loads(data)
        if start.startswith(b"PK"):
            raise DataError("it is a zip archive, such as torch.save writes")
        return _PlainUnpickler(io.BytesIO(data)).load()
    except DataError:
        raise
    except EOFError as error:
        raise DataError("the file is cut off") from error
    except Exception as error:  # a damaged pickle raises almost anything
        text = plain(error, 200)
        raise DataError("the file is cut off" if "truncated" in text else f"it cannot be parsed ({text})") from error


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise DataError(
            f"it wants to load {plain(module, 60)}.{plain(name, 60)}, and a snapshot holds plain values only"
        )

    def persistent_load(self, pid: object) -> NoReturn:
        raise DataError("it refers to objects in other files, and a snapshot holds plain values only")


def _foreign_kind(content: object) -> str | None:
    """Return what a file is that torch writes and that has no history of the allocator; None for a snapshot."""
    if isinstance(content, dict):
        if content.keys() >= {"segments", "device_traces"}:
            return None
        return (
            "a trace of torch.profiler" if "traceEvents" in content else "an object without segments and device_traces"
        )
    if not isinstance(content, list):
        return "a single value"
    if content and all(isinstance(one, dict) and "total_size" in one for one in content):
        return "a list of segments without a history, from torch.cuda.memory_snapshot"
    if len(content) == 2 and all(isinstance(one, list) for one in content):
        return "a timeline of torch.profiler.export_memory_timeline"
    return "a list without segments and device_traces"


def _first_problem(snapshot: Mapping[str, Any]) -> str | None:
    """Return the first difference from what torch writes."""
    traces, segments = snapshot["device_traces"], snapshot["segments"]
    if not isinstance(traces, list) or not all(isinstance(trace, list) for trace in traces):
        return "device_traces is no list of lists"
    if not isinstance(segments, list):
        return "segments is no list"
    for device, trace in enumerate(traces):
        for number, entry in enumerate(trace):
            problem = _entry_problem(entry)
            if problem is not None:
                return f"entry {number} of device {device} has {problem}"
    for number, segment in enumerate(segments):
        problem = _segment_problem(segment)
        if problem is not None:
            return f"segment {number} {problem}"
    return _settings_problem(snapshot.get("allocator_settings", {}))


def _entry_problem(entry: object) -> str | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("action"), str):
        return "no action"
    if entry["action"] in HISTORY:
        if not _is_count(entry.get("addr")) or not _is_count(entry.get("size")):
            return "no address and size"
        if entry["action"].startswith("segment") and not entry["size"]:
            return "a segment without a byte"
    elif entry["action"] == "oom" and not (_is_count(entry.get("size")) and _is_count(entry.get("device_free", 0))):
        return "no size"
    return None if isinstance(entry.get("stream", 0), int) else "a stream that is no number"


def _segment_problem(segment: object) -> str | None:
    if not isinstance(segment, dict):
        return "is no dictionary"
    for name in ("device", "address", "total_size"):
        if not _is_count(segment.get(name)):
            return f"has no {name}"
    if not segment["total_size"]:
        return "has no byte"
    blocks = segment.get("blocks")
    if not isinstance(blocks, list) or not all(
        isinstance(block, dict)
        and isinstance(block.get("state"), str)
        and _is_count(block.get("size"))
        and _is_count(block.get("requested_size", 0))
        for block in blocks
    ):
        return "has no blocks with a size and a state"
    if sum(block["size"] for block in blocks) != segment["total_size"]:
        return "is not as large as its blocks together"
    return None if isinstance(segment.get("stream", 0), int) else "has a stream that is no number"


def _settings_problem(settings: object) -> str | None:
    if not isinstance(settings, dict):
        return "allocator_settings is no dictionary"
    divisions = settings.get("roundup_power2_divisions", {})
    if not isinstance(divisions, dict) or not all(map(_is_count, divisions.values())):
        return "roundup_power2_divisions is no dictionary of numbers"
    split = settings.get("max_split_size")
    return None if split in (None, -1) or _is_count(split) else "max_split_size is no number"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < UNLIMITED

"""The record of a run, which cannot be changed: its setting, outcome, environment and metrics.

Schema history: 1 is the first; later it has the optional ``marks`` and ``events``, which are left out if there are
none, and a ``checksum`` in the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from slr_bench.units import is_number, plain

SCHEMA: Final = 1

Quality = Literal["exact", "sampled", "measured", "estimated", "unavailable"]
Fields = dict[str, Any]
"""Field -> JSON value."""

SPLIT: Final = "; split: "
"""Precedes, in the source of peak/floor, the modules whose operators work on a part at a time."""


_LARGEST: Final = 1e100
"""Ratios of values between it and its inverse are finite."""


def why_no_figure(value: object, unit: object) -> str | None:
    """Return why a number cannot be a reading; None if it can, or if the value is not a number."""
    if not is_number(value):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return "is no figure"
    if value and not 1 / _LARGEST <= abs(value) <= _LARGEST:
        return "is beyond anything that can be measured"
    return "is less than no byte" if unit == "bytes" and value < 0 else None


class Outcome(StrEnum):
    """The end of a run. Running out of memory is a result, not an error."""

    OK = "ok"
    OOM_GPU = "oom_gpu"
    OOM_HOST = "oom_host"
    TIMEOUT = "timeout"
    CRASH = "crash"
    SKIPPED_DOMINATED = "skipped_dominated"
    INVALID_ENV = "invalid_env"
    UNSUPPORTED = "unsupported"


class Metric(BaseModel):
    """One reading. If it could not be taken, ``value`` is None, never 0, and ``reason`` says why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: int | float | None
    unit: Literal["bytes", "s", "1/s", "J", "1", "ratio", "C", "Hz", "W"]
    source: str
    """The meter: ``/proc/self/status VmHWM``, ``torch.cuda``, ``cpu-real`` (traced), ..."""
    quality: Quality
    """``exact`` counted; ``measured`` read from a clock or counter; ``sampled`` a lower bound between samples."""
    reason: str | None = None

    @model_validator(mode="after")
    def _null_has_a_reason(self) -> Metric:
        why = why_no_figure(self.value, self.unit)
        if why is not None:
            raise ValueError(f"value {plain(self.value, 40)} {why}; what could not be read is null, with its reason")
        if (self.value is None) != (self.reason is not None) or (self.value is None) != (self.quality == "unavailable"):
            raise ValueError(
                "an unavailable metric has value null, quality 'unavailable' and a reason; others none of them"
            )
        return self

    @classmethod
    def unavailable(cls, unit: Any, source: str, reason: str) -> Metric:
        """Return a metric without a value, with the reason."""
        return cls(value=None, unit=unit, source=source, quality="unavailable", reason=reason)


_GPU_FIELDS: Final = frozenset({"peak_allocated_bytes", "peak_requested_bytes", "peak_reserved_bytes"})
_Bytes = Annotated[int, Field(ge=0)]


class Phase(BaseModel):
    """Time in one named part of a run, summed over its occurrences."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    duration_s: float
    count: int
    peak_tensor_bytes: _Bytes | None = None
    """Most traced live bytes in the phase; null if no step was traced."""
    peak_allocated_bytes: _Bytes | None = None
    """Peak of torch's CUDA allocator in the phase. This and the next two are null on the CPU."""
    peak_requested_bytes: _Bytes | None = None
    peak_reserved_bytes: _Bytes | None = None

    @model_serializer(mode="wrap")
    def _without_null_gpu_fields(self, dump: SerializerFunctionWrapHandler) -> Fields:
        """Leave the GPU's fields out if they are null, so that records of the CPU keep their bytes."""
        fields: Fields = dump(self)
        return {name: value for name, value in fields.items() if value is not None or name not in _GPU_FIELDS}


class RunEvent(BaseModel):
    """A change that a training made to itself because of memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: Annotated[int, Field(ge=0)]
    """Optimizer steps taken before it."""
    kind: str
    """``halved``, ``grown``, ``shed_cache``, ..., or another word of the workload."""
    text: str
    """Cause and change in words."""
    changes_batch: bool = False
    """True if steps computed on other micro-batches from then on. The accuracy then does not compare."""
    used_bytes: _Bytes | None = None
    """Memory in use that caused it; null if memory ran out before it was read."""
    own_bytes: _Bytes | None = None
    """Part of it that the training held; null if that was not read."""


class Record(BaseModel):
    """The result of a run. It holds no user, no host name and no path."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_number: Annotated[Literal[1], Field(alias="schema")] = SCHEMA
    cell_id: str
    side: Literal["a", "b"] = "a"
    repeat: int
    workload: str
    setting: dict[str, JsonValue]
    outcome: Outcome
    reason: str | None
    environment: dict[str, JsonValue]
    metrics: dict[str, Metric]
    phases: dict[str, Phase]
    started_at: str
    """ISO 8601, UTC."""
    duration_s: float
    marks: tuple[str, ...] = ()
    """Interference during the run. Its traced bytes are still valid; its times are not."""
    events: tuple[RunEvent, ...] = ()
    """Changes that a training made to itself, in their order."""

    @model_serializer(mode="wrap")
    def _without_empty_lists(self, serialize: SerializerFunctionWrapHandler) -> Fields:
        values: Fields = serialize(self)
        return {name: value for name, value in values.items() if value or name not in ("marks", "events")}

    @model_validator(mode="after")
    def _failure_has_a_reason(self) -> Record:
        if (self.outcome is Outcome.OK) != (self.reason is None):
            raise ValueError(
                f"outcome {self.outcome} with reason {self.reason!r}: every outcome except ok has a reason"
            )
        return self

    @property
    def name(self) -> str:
        """Name of the record's file in the run directory, without its suffix."""
        return f"{self.cell_id}-{self.side}-{self.repeat}"

    def value(self, metric: str) -> int | float | None:
        """Return the value of a metric; None if it is unavailable or absent."""
        reading = self.metrics.get(metric)
        return reading.value if reading else None


class ChangedRecordError(ValueError):
    """The file of a record is not what was written."""


def record_text(record: Record) -> str:
    """Return the content of a record's file: its JSON and a checksum of its values."""
    values: Fields = json.loads(record.model_dump_json(by_alias=True))
    return json.dumps(values | {"checksum": _checksum(values)}, indent=1, ensure_ascii=False)


def parse_record(content: bytes) -> Record:
    """Read the content of a record's file. A file of an earlier version, without a checksum, is read too.

    Raises:
        ValidationError: It is not a record.
        ChangedRecordError: Its values were changed after it was written. Other white space is no change.
    """
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return Record.model_validate_json(content)  # which says what is wrong with it
    written = values.pop("checksum", None) if isinstance(values, dict) else None
    record = Record.model_validate(values)
    if written is not None and written != _checksum(values):
        raise ChangedRecordError("changed after it was written; restore the file, or measure its cell again")
    return record


def _checksum(values: Fields) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:32]}"


_DIRECTORIES: Final = re.compile(r"(?<![\w.~-])/(?:[^/\s'\":;,()]+/)+")
"""The absolute directories before the name of a file. ``items/s`` and ``1/2`` do not match."""


def without_paths(reason: str, settings_json: str) -> str:
    """Remove directories from a reason, because a record holds no path.

    A path of the setting keeps its last part. A path below the working directory becomes relative to it. Any other path
    keeps the name of the file.
    """
    for path in sorted(_paths_in(json.loads(settings_json)), key=len, reverse=True):
        reason = reason.replace(path, Path(path).name)
    return _DIRECTORIES.sub("", reason.replace(f"{Path.cwd()}/", ""))


def _paths_in(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _paths_in(item)
    elif isinstance(value, str) and "/" in value:
        yield value


def public_command(arguments: Sequence[str]) -> str:
    """Return a command that other people can repeat, without personal directories.

    A path below the working directory becomes relative to it. Any other path keeps only its last part.
    """
    words = ["slr-bench", *map(public_word, arguments)]
    return without_paths(shlex.join(words), "{}")


def public_word(word: str) -> str:
    """Return one word of a command without personal directories."""
    key, equals, value = word.rpartition("=")  # --out=DIR, data.dir=DIR
    if not value.startswith(("/", "~", "..")):
        return word
    expanded = os.path.expanduser(value)  # pathlib raises if the user is unknown
    path = os.path.normpath(Path.cwd() / expanded)
    is_inside = not expanded.startswith("~") and Path(path).is_relative_to(Path.cwd())
    return key + equals + (os.path.relpath(path) if is_inside else Path(path).name)

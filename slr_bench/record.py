"""What a run leaves: metrics that know where they come from, a typed outcome, one immutable record.

Schema history: 1 - first; later with the optional ``marks``, left out where there are none.
"""

from __future__ import annotations

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


SPLIT: Final = "; split: "
"""In the source of peak/floor; the modules follow whose operators work on a part at a time."""


_LARGEST: Final = 1e100
"""Ratios of values up to it, and down to its inverse, are finite."""


def why_no_figure(value: object, unit: object) -> str | None:
    """What is wrong with a number as a reading; None where nothing is, or where it is no number."""
    if not is_number(value):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return "is no figure"
    if value and not 1 / _LARGEST <= abs(value) <= _LARGEST:
        return "is beyond anything that can be measured"
    return "is less than no byte" if unit == "bytes" and value < 0 else None


class Outcome(StrEnum):
    """How a run ended. Running out of memory is a result, not an error."""

    OK = "ok"
    OOM_GPU = "oom_gpu"
    OOM_HOST = "oom_host"
    TIMEOUT = "timeout"
    CRASH = "crash"
    SKIPPED_DOMINATED = "skipped_dominated"
    INVALID_ENV = "invalid_env"
    UNSUPPORTED = "unsupported"


class Metric(BaseModel):
    """One reading. What could not be read is ``value: None`` with the reason, never 0."""

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
        """The null reading, with why."""
        return cls(value=None, unit=unit, source=source, quality="unavailable", reason=reason)


_GPU_FIELDS: Final = frozenset({"peak_allocated_bytes", "peak_requested_bytes", "peak_reserved_bytes"})


_Bytes = Annotated[int, Field(ge=0)]


class Phase(BaseModel):
    """Time in one named part of a run, summed over its occurrences."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    duration_s: float
    count: int
    peak_tensor_bytes: _Bytes | None = None
    """Traced live bytes at most while in it; null where no step was traced."""
    peak_allocated_bytes: _Bytes | None = None
    """Torch's CUDA allocator at most while in it; like the two below null on the CPU and where no such step ran."""
    peak_requested_bytes: _Bytes | None = None
    peak_reserved_bytes: _Bytes | None = None

    @model_serializer(mode="wrap")
    def _as_before_without_gpu(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a GPU a phase is written as ever: those of the CPU's records stay equal to the byte."""
        fields: dict[str, Any] = dump(self)
        return {name: value for name, value in fields.items() if value is not None or name not in _GPU_FIELDS}


class Record(BaseModel):
    """The one thing a run leaves. Immutable; holds no user, host name or path."""

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
    """What disturbed the run: its times are suspect, its traced bytes are not."""

    @model_serializer(mode="wrap")
    def _without_empty_marks(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialize(self)
        if not self.marks:
            del values["marks"]
        return values

    @model_validator(mode="after")
    def _failure_has_a_reason(self) -> Record:
        if (self.outcome is Outcome.OK) != (self.reason is None):
            raise ValueError(
                f"outcome {self.outcome} with reason {self.reason!r}: exactly the outcomes but ok have one"
            )
        return self

    @property
    def name(self) -> str:
        """File stem in the run directory."""
        return f"{self.cell_id}-{self.side}-{self.repeat}"

    def value(self, metric: str) -> int | float | None:
        """The metric's value; None if unavailable or not taken."""
        reading = self.metrics.get(metric)
        return reading.value if reading else None


_DIRECTORIES: Final = re.compile(r"(?<![\w.~-])/(?:[^/\s'\":;,()]+/)+")
"""The absolute directories before the name of a file. ``items/s`` and ``1/2`` do not match."""


def without_paths(reason: str, settings_json: str) -> str:
    """Remove directories from a reason, because a record holds no path.

    Of the setting's own paths the last part stays. Paths below the working directory become relative to it. Of all
    others the name of the file stays.
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
    """Return a command as others can give it: without anybody's home directory.

    A path below the working directory is given relative to it; of any other path only the last part stays.
    """
    words = ["slr-bench", *map(public_word, arguments)]
    return without_paths(shlex.join(words), "{}")


def public_word(word: str) -> str:
    """Return one word of a command as others can give it."""
    key, equals, value = word.rpartition("=")  # --out=DIR, data.dir=DIR
    if not value.startswith(("/", "~", "..")):
        return word
    expanded = os.path.expanduser(value)  # pathlib's raises where the user is unknown
    path = os.path.normpath(Path.cwd() / expanded)
    is_inside = not expanded.startswith("~") and Path(path).is_relative_to(Path.cwd())
    return key + equals + (os.path.relpath(path) if is_inside else Path(path).name)

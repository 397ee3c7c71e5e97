"""Golden traces: histories of a GPU's allocator, with the measured peaks, as files to be committed. Imports no torch.

The file is gzip'd JSON. Its ``history`` is a memory snapshot without stacks.

The history of the format: 1 - events and changes in a form of their own; 2 - the snapshot.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from slr_bench.errors import DataError
from slr_bench.predict.allocator.recording import Recording
from slr_bench.predict.allocator.rewind import recording_of

SCHEMA: Final = 2
SUFFIX: Final = ".json.gz"
_SETTING: Final = ("workload", "arm", "cell_id", "setting")
_MEASURED: Final = ("history", "facts", "peaks", "steady_peaks", "nvml_process_bytes", "context")


@dataclass(frozen=True)
class GoldenTrace:
    """One setting's steps on a GPU: what its allocator did, and what was measured beside it."""

    setting: Mapping[str, Any]
    """``workload``, ``arm``, ``cell_id``, ``setting``."""
    history: Mapping[str, Any]
    """The memory snapshot."""
    recording: Recording
    """The history as events."""
    facts: Mapping[str, Any]
    """``gpu``, ``torch``, ``cuda``, ``driver`` and so on."""
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
            DataError: the history does not begin before the first allocation.
        """
        recording = recording_of(steps["history"], 0)
        if recording.start or recording.problem:
            reason = recording.problem or "memory is reserved before its first entry"
            raise DataError(f"the history is not complete: {reason}; record from before the first allocation on")
        return cls(setting, recording=recording, **{name: steps[name] for name in _MEASURED})


def write_golden(trace: GoldenTrace, path: Path) -> None:
    """Write a golden trace; equal traces give equal files."""
    content = {"schema": SCHEMA, **trace.setting, **{name: getattr(trace, name) for name in _MEASURED}}
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
        return GoldenTrace.from_steps({name: content[name] for name in _SETTING}, content)
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"{path} is no golden trace ({type(error).__name__}: {error}); record it: make calibrate"
        ) from error

"""How a child's end becomes a typed outcome and a reason that names no path."""

from __future__ import annotations

import json
import re
import signal as signals
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slr_bench.execute.local import Ending
from slr_bench.record import Outcome

_DIRECTORIES = re.compile(r"(?<![\w.~-])/(?:[^/\s'\":;,()]+/)+")
"""The absolute directories before a file's name. ``clips/s`` and ``1/2`` are none."""


def classify(ending: Ending, timeout_s: float, oom_counter: str | None) -> tuple[Outcome, str | None]:
    """The typed outcome of a child. SIGKILL is out-of-memory only with evidence: ``oom_counter`` names the count of
    such kills that rose meanwhile.
    """
    if ending.timed_out:
        return (
            Outcome.TIMEOUT,
            f"still running after {timeout_s:g} s, and was killed; raise timeout_s and run again with --retry",
        )
    if ending.result is not None:
        return Outcome(ending.result["outcome"]), ending.result["reason"]
    if ending.signal is None:
        return Outcome.CRASH, f"the process ended with status {ending.code} and no result; see its log in logs/"
    name = _signal_name(ending.signal)
    if ending.signal == signals.SIGKILL and oom_counter is not None:
        return (
            Outcome.OOM_HOST,
            f"killed by the kernel for want of memory (SIGKILL, and {oom_counter} oom_kill count rose)",
        )
    return Outcome.CRASH, f"ended by {name}; see its log in logs/"


def _signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:  # real-time signals have none
        return f"signal {number}"


def without_paths(reason: str, settings_json: str) -> str:
    """A record holds no path: of the setting's own ones the last part stays, below the working directory the rest,
    of all others the file's name.
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

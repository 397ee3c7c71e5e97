"""The records of a run directory as far as they can be read: a figure that is none costs itself, not its record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from slr_bench.record import Record, why_no_figure
from slr_bench.run.store import Store
from slr_bench.units import plain

_REFUSED: Final = "not a readable record: "


@dataclass(frozen=True)
class FoundRecords:
    """What is there."""

    records: list[Record]
    """Sorted by name."""
    problems: list[str]
    """A line for each reason why files are no records, or not wholly."""
    unreadable: Mapping[str, str]
    """Name of a record (``<cell_id>-<side>-<repeat>``) that cannot be read -> why."""


def find_records(store: Store) -> FoundRecords:
    """Every record of a run directory; what is no figure in one (NaN, infinite, bytes below 0) is unavailable in it."""
    records, lines = store.read_records()
    problems, unreadable = [], {}
    for line in lines:
        name, _, why = line.partition(": ")
        path = store.records_directory / name
        record, dropped = _mended(path) if why.startswith(_REFUSED) else (None, "")
        if record is not None:
            records.append(record)
            why = dropped
        elif why.startswith(_REFUSED):
            unreadable[path.stem] = why.removeprefix(_REFUSED)
        problems.append((name, why))
    return FoundRecords(sorted(records, key=lambda record: record.name), _grouped(problems), unreadable)


def _grouped(problems: Iterable[tuple[str, str]]) -> list[str]:
    """``'a.json and 2 more: why'``: what is said of many files is one line."""
    files: dict[str, list[str]] = {}
    for name, why in problems:
        files.setdefault(why, []).append(name)
    more = {why: f" and {len(names) - 1} more" if len(names) > 1 else "" for why, names in files.items()}
    return [f"{names[0]}{more[why]}: {why}" for why, names in files.items()]


def _mended(path: Path) -> tuple[Record | None, str]:
    """The record without what is no figure, and what that was; None where that is not what is wrong with it."""
    try:
        raw = json.loads(path.read_text())
        dropped = _drop_what_is_no_figure(raw)
        record = Record.model_validate(raw)
    except (OSError, ValueError, ValidationError, AttributeError, TypeError, KeyError):
        return None, ""  # the store has said what is wrong with it
    return (record, "; ".join(dropped)) if record.name == path.stem else (None, "")


def _drop_what_is_no_figure(raw: dict[str, Any]) -> list[str]:
    """Make such metrics unavailable; what was dropped and why."""
    dropped = []
    for name, metric in raw["metrics"].items():
        why = why_no_figure(metric["value"], metric["unit"])
        if why is not None:
            reason = f"the record holds {plain(metric['value'], 40)}, which {why}"
            metric |= {"value": None, "quality": "unavailable", "reason": reason}
            dropped.append(f"{plain(name, 60)} left out: {reason}")
    return dropped

"""Read a run directory as one side of a comparison, as far as its records can be read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

from pydantic import ValidationError

from slr_bench.compare.cells import MEASURED, CellSummary, summarize_cells
from slr_bench.errors import ConfigError, NoBaselineError, NothingMeasuredError
from slr_bench.record import Outcome, Record, why_no_figure
from slr_bench.run.store import Manifest, Pairing, Store
from slr_bench.units import nearest, plain

SideName = Literal["base", "head"]
BROKEN = frozenset({Outcome.CRASH, Outcome.TIMEOUT})
"""Outcomes that point to a fault in the code or in the machine."""
_REFUSED: Final = "not a readable record: "


@dataclass(frozen=True)
class Side:
    """Cells of one run directory, including both of its sides if it has two."""

    name: str
    cells: Sequence[CellSummary]
    problems: Sequence[str] = ()
    """Files that are not readable records."""
    pairing: Pairing | None = None
    """The interleaved measurement that the directory belongs to."""

    @property
    def refused(self) -> Mapping[str, str]:
        """Arms that this source cannot run, with the reason."""
        return self.pairing.refused if self.pairing else {}

    def cells_of(self, side: Literal["a", "b"]) -> list[CellSummary]:
        """Return the cells of one side of the directory."""
        return [cell for cell in self.cells if cell.side == side]


def read_side(directory: Path, which: SideName, name: str | None = None, arm: str | None = None) -> Side:
    """Read a run directory as base or head, with all arms or with one.

    Raises:
        ConfigError: it has no such arm.
        NoBaselineError: the base is no run directory, or none of its runs ended ok or out of memory.
        NothingMeasuredError: the head is no run directory, or none of its runs ended ok, out of memory or in a crash
            (a crash of the head is a result).
    """
    store = Store(directory)
    manifest = _manifest(store, which)
    found = find_records(store)
    if arm is not None:
        manifest = _of_arm(manifest, arm, which)
    listed = {entry.cell_id for entry in manifest.cells}
    own = [record for record in found.records if record.cell_id in listed]
    if not any(record.outcome in (MEASURED if which == "base" else MEASURED | BROKEN) for record in own):
        _refuse(store, which, manifest, own, found.unreadable)
    shown = manifest.pairing.name if manifest.pairing else name or directory.name
    cells = summarize_cells(manifest, found.records, found.unreadable)
    return Side(shown, cells, found.problems, manifest.pairing)


def _manifest(store: Store, which: SideName) -> Manifest:
    try:
        manifest = store.read_manifest()
    except ConfigError as error:  # another schema, or half written; the cure differs from that of a run
        reason = str(error).rpartition(";")[0]
        raise _error(which)(f"{reason}; measure it again with this version") from error
    if manifest is None:
        raise _error(which)(
            f"{store.directory} is not a run directory: it has no grid.json; give one that `slr-bench run` wrote"
        )
    return manifest


def _of_arm(manifest: Manifest, arm: str, which: SideName) -> Manifest:
    arms = dict.fromkeys(entry.arm for entry in manifest.cells)
    if arm not in arms:
        raise ConfigError(f"--arm: the {which} has no arm {plain(arm)!r}{plain(nearest(arm, arms))}")
    return manifest.model_copy(update={"cells": tuple(entry for entry in manifest.cells if entry.arm == arm)})


def _refuse(
    store: Store, which: SideName, manifest: Manifest, records: Sequence[Record], unreadable: Mapping[str, str]
) -> NoReturn:
    if records:
        ends = sorted({f"{record.outcome}: {plain(record.reason)}" for record in records})
        shown = manifest.pairing.name if manifest.pairing else store.directory
        raise _error(which)(f"no run of the {which} ({shown}) was measured; they ended as {'; '.join(ends[:3])}")
    if unreadable:
        name, why = next(iter(unreadable.items()))
        raise _error(which)(
            f"none of the {len(unreadable)} records in {store.directory} can be read ({name}.json: {plain(why)}); "
            "measure it again with this version"
        )
    raise _error(which)(f"{store.directory} has no record of a run; run its grid first: {plain(manifest.command)}")


def _error(which: SideName) -> type[NoBaselineError] | type[NothingMeasuredError]:
    return NoBaselineError if which == "base" else NothingMeasuredError


@dataclass(frozen=True)
class FoundRecords:
    """The records of a run directory, and what could not be read."""

    records: list[Record]
    """Sorted by name."""
    problems: list[str]
    """One line for each reason why files are no valid records."""
    unreadable: Mapping[str, str]
    """Name of an unreadable record (``<cell_id>-<side>-<repeat>``) -> reason."""


def find_records(store: Store) -> FoundRecords:
    """Read every record of a run directory. An invalid value (NaN, infinite, negative bytes) becomes unavailable."""
    records, lines = store.read_records()
    problems, unreadable = [], {}
    for line in lines:
        name, _, why = line.partition(": ")
        path = store.records_directory / name
        record, dropped = _without_invalid_values(path) if why.startswith(_REFUSED) else (None, "")
        if record is not None:
            records.append(record)
            why = dropped
        elif why.startswith(_REFUSED):
            unreadable[path.stem] = why.removeprefix(_REFUSED)
        problems.append((name, why))
    return FoundRecords(sorted(records, key=lambda record: record.name), _grouped(problems), unreadable)


def _grouped(problems: Iterable[tuple[str, str]]) -> list[str]:
    """Return one line per reason: ``a.json and 2 more: reason``."""
    files: dict[str, list[str]] = {}
    for name, why in problems:
        files.setdefault(why, []).append(name)
    more = {why: f" and {len(names) - 1} more" if len(names) > 1 else "" for why, names in files.items()}
    return [f"{names[0]}{more[why]}: {why}" for why, names in files.items()]


def _without_invalid_values(path: Path) -> tuple[Record | None, str]:
    """Return the record without its invalid values, and what they were; None if something else is wrong with it."""
    try:
        raw = json.loads(path.read_text())
        dropped = _drop_invalid_values(raw)
        record = Record.model_validate(raw)
    except (OSError, ValueError, ValidationError, AttributeError, TypeError, KeyError):
        return None, ""  # the store has reported what is wrong with it
    return (record, "; ".join(dropped)) if record.name == path.stem else (None, "")


def _drop_invalid_values(raw: dict[str, Any]) -> list[str]:
    """Make metrics with invalid values unavailable; return a line for each."""
    dropped = []
    for name, metric in raw["metrics"].items():
        why = why_no_figure(metric["value"], metric["unit"])
        if why is not None:
            reason = f"the record holds {plain(metric['value'], 40)}, which {why}"
            metric |= {"value": None, "quality": "unavailable", "reason": reason}
            dropped.append(f"{plain(name, 60)} left out: {reason}")
    return dropped

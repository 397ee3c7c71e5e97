"""Read a run directory as one side of a comparison, and gather its records per cell and per metric."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

from pydantic import ValidationError

from slr_bench.compare.statistics import Ratio, Summary, paired_ratio, summarize
from slr_bench.errors import ConfigError, NoBaselineError, NothingMeasuredError
from slr_bench.grid.description import GENERIC, WorkloadDescription
from slr_bench.grid.workload import describe_workload
from slr_bench.record import Metric, Outcome, Record, why_no_figure
from slr_bench.run.store import CellEntry, Manifest, Pairing, Store
from slr_bench.units import nearest, plain

SideName = Literal["base", "head"]
BROKEN = frozenset({Outcome.CRASH, Outcome.TIMEOUT})
"""Outcomes that point to a fault in the code or in the machine."""
DETERMINISTIC: Final = frozenset(
    {"peak_tensor_bytes", "parameters", "flops_per_step", "floor_bytes", "peak_over_floor"}
)
"""Metrics that the tracing rules determine. If repeats differ, something is wrong; it is not noise."""
MEASURED: Final = frozenset({Outcome.OK, Outcome.OOM_GPU, Outcome.OOM_HOST})
"""Outcomes that are a result: the cell fits, or it does not."""
_REFUSED: Final = "not a readable record: "


@dataclass(frozen=True)
class Reading:
    """One metric of one cell, over its processes that ended ok."""

    name: str
    unit: str
    by_repeat: dict[int, float]
    summary: Summary | None
    """None if no process could read the metric; ``reasons`` has the causes."""
    sources: tuple[str, ...]
    reasons: tuple[str, ...]

    @property
    def value(self) -> float | None:
        """The median; None if there is none, or if meters that do not compare were used."""
        return self.summary.median if self.summary else None


@dataclass(frozen=True)
class CellSummary:
    """A cell with the records of one side, ordered by repeat."""

    entry: CellEntry
    side: Literal["a", "b"]
    records: tuple[Record, ...]
    unreadable: tuple[str, ...] = ()
    """The reason for each record of the cell that cannot be read."""
    description: WorkloadDescription = field(default=GENERIC, repr=False, compare=False)
    """Description of the cell's workload."""

    @property
    def outcomes(self) -> Counter[Outcome]:
        """Number of processes per outcome."""
        return Counter(record.outcome for record in self.records)

    @property
    def finished(self) -> tuple[Record, ...]:
        """The records with outcome ok. Only their metrics count."""
        return tuple(record for record in self.records if record.outcome is Outcome.OK)

    @property
    def is_disturbed(self) -> bool:
        """True if a finished run suffered interference. Its byte counts are still valid; its times are not."""
        return any(record.marks for record in self.finished)

    @property
    def batch_change(self) -> str | None:
        """The first change of the micro-batch in a finished run, in words; None if every run kept its batches."""
        found = [event for record in self.finished for event in record.events if event.changes_batch]
        return f"the training changed its batches after step {found[0].step} ({found[0].text})" if found else None

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why processes did not end ok, without duplicates."""
        return tuple(dict.fromkeys(record.reason for record in self.records if record.reason is not None))

    @cached_property
    def readings(self) -> dict[str, Reading]:
        """Every metric that a finished record has."""
        names = dict.fromkeys(name for record in self.finished for name in record.metrics)
        return {name: _read(name, self.finished) for name in names}

    def value(self, metric: str) -> float | None:
        """Return the median of a metric; None if it was not measured or is unavailable."""
        reading = self.readings.get(metric)
        return reading.value if reading else None


def _read(name: str, records: Iterable[Record]) -> Reading:
    taken: dict[int, Metric] = {record.repeat: record.metrics[name] for record in records if name in record.metrics}
    by_repeat = {repeat: metric.value for repeat, metric in taken.items() if metric.value is not None}
    sources = tuple(sorted({taken[repeat].source for repeat in by_repeat}))
    reasons = tuple(dict.fromkeys(metric.reason for metric in taken.values() if metric.reason is not None))
    unit = next(iter(taken.values())).unit
    if unit == "bytes" and len(sources) > 1:
        reasons = (*reasons, f"read by meters that do not compare: {', '.join(sources)}")
        return Reading(name, unit, by_repeat, None, sources, reasons)
    values = list(by_repeat.values())
    summary = summarize(values, deterministic=name in DETERMINISTIC) if values else None
    return Reading(name, unit, by_repeat, summary, sources, reasons)


def summarize_cells(
    manifest: Manifest, records: Iterable[Record], unreadable: Mapping[str, str] | None = None
) -> list[CellSummary]:
    """Return the manifest's cells in its order, one per side that has a record (side ``a`` if neither has one).

    ``unreadable`` maps the names of records that cannot be read to the reason.
    """
    found: dict[tuple[str, str], list[Record]] = {}
    lost: dict[tuple[str, str], list[str]] = {}
    for record in records:
        found.setdefault((record.cell_id, record.side), []).append(record)
    for name, why in (unreadable or {}).items():
        cell_id, side, _ = (*name.rsplit("-", 2), "", "")[:3]
        lost.setdefault((cell_id, side), []).append(why)
    descriptions = {name: describe_workload(name) for name in {entry.workload for entry in manifest.cells}}
    cells = []
    for entry in manifest.cells:
        sides: list[Literal["a", "b"]] = ["a"]
        if (entry.cell_id, "b") in found or (entry.cell_id, "b") in lost:
            sides = ["a", "b"]
        for side in sides:
            own = sorted(found.get((entry.cell_id, side), []), key=lambda record: record.repeat)
            reasons = tuple(lost.get((entry.cell_id, side), ()))
            cells.append(CellSummary(entry, side, tuple(own), reasons, descriptions[entry.workload]))
    return cells


def descriptions_of(cells: Iterable[CellSummary]) -> list[WorkloadDescription]:
    """Return the description of every workload in the cells, in their order."""
    return list({cell.entry.workload: cell.description for cell in cells}.values())


def own_cell(cells: Iterable[CellSummary], arm: str, workload: str) -> CellSummary | None:
    """Return the cell with the arm's own setting, before any axis is applied."""
    for cell in cells:
        if cell.side == "a" and cell.entry.is_own and (cell.entry.arm, cell.entry.workload) == (arm, workload):
            return cell
    return None


def why_not_comparable(base: Reading, head: Reading) -> str | None:
    """Return the reason why two readings do not compare; None if they do."""
    for reading in (base, head):
        if reading.summary is None:
            return "; ".join(reading.reasons) or f"{reading.name} was not read"
    # The source of a byte count says what was counted; the source of a time only describes the clock.
    if base.unit == "bytes" and base.sources != head.sources:
        return f"different meters do not compare: {base.sources[0]} against {head.sources[0]}"
    return None


def pair(base: Reading, head: Reading) -> Ratio | None:
    """Return the ratio over the repeats that both cells finished; None if no such pair has two values above 0."""
    both = sorted(base.by_repeat.keys() & head.by_repeat.keys())
    pairs = [(base.by_repeat[repeat], head.by_repeat[repeat]) for repeat in both]
    pairs = [(before, after) for before, after in pairs if before > 0 and after > 0]
    return paired_ratio([before for before, _ in pairs], [after for _, after in pairs]) if pairs else None


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

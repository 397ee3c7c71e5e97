"""Gather the records of a run directory per cell and per metric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal

from slr_bench.compare.statistics import Ratio, Summary, paired_ratio, summarize
from slr_bench.grid.description import GENERIC, WorkloadDescription
from slr_bench.grid.workload import describe_workload
from slr_bench.record import Metric, Outcome, Record
from slr_bench.run.store import CellEntry, Manifest

DETERMINISTIC: Final = frozenset(
    {"peak_tensor_bytes", "parameters", "flops_per_step", "floor_bytes", "peak_over_floor"}
)
"""Metrics that the tracing rules determine. If repeats differ, something is wrong; it is not noise."""
MEASURED: Final = frozenset({Outcome.OK, Outcome.OOM_GPU, Outcome.OOM_HOST})
"""Outcomes that are a result: the cell fits, or it does not."""


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
        """Whether there was interference during a finished run: its byte counts are still valid, its times are not."""
        return any(record.marks for record in self.finished)

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

"""Records of a run directory, gathered cell by cell and metric by metric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from slr_bench.compare.statistics import Ratio, Summary, paired_ratio, summarize
from slr_bench.record import Metric, Outcome, Record
from slr_bench.run.store import CellEntry, Manifest

DETERMINISTIC: Final = frozenset(
    {"peak_tensor_bytes", "parameters", "flops_per_step", "floor_bytes", "peak_over_floor"}
)
"""Metrics that a rule set fixes: repeats that differ mean a fault, not noise."""
MEASURED: Final = frozenset({Outcome.OK, Outcome.OOM_GPU, Outcome.OOM_HOST})
"""Outcomes that answer the question; the others leave it open."""


@dataclass(frozen=True)
class Reading:
    """One metric of one cell over its processes that ended ok."""

    name: str
    unit: str
    by_repeat: dict[int, float]
    summary: Summary | None
    """None: no process could read it, ``reasons`` say why."""
    sources: tuple[str, ...]
    reasons: tuple[str, ...]

    @property
    def value(self) -> float | None:
        """The median; None if it was never read, or by meters that do not compare."""
        return self.summary.median if self.summary else None


@dataclass(frozen=True)
class CellSummary:
    """A cell with its records of one side, ordered by repeat."""

    entry: CellEntry
    side: Literal["a", "b"]
    records: tuple[Record, ...]
    unreadable: tuple[str, ...] = ()
    """Why records of it cannot be read, one of each."""

    @property
    def outcomes(self) -> Counter[Outcome]:
        """How often it ended how."""
        return Counter(record.outcome for record in self.records)

    @property
    def finished(self) -> tuple[Record, ...]:
        """The records with outcome ok: the only ones whose metrics count."""
        return tuple(record for record in self.records if record.outcome is Outcome.OK)

    @property
    def is_disturbed(self) -> bool:
        """Whether a run that counts was disturbed: its times are suspect, its traced bytes are not."""
        return any(record.marks for record in self.finished)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it did not end ok, each reason once."""
        return tuple(dict.fromkeys(record.reason for record in self.records if record.reason is not None))

    @cached_property
    def readings(self) -> dict[str, Reading]:
        """Every metric that a finished record names."""
        names = dict.fromkeys(name for record in self.finished for name in record.metrics)
        return {name: _read(name, self.finished) for name in names}

    def value(self, metric: str) -> float | None:
        """Median of the metric; None if not taken or unavailable."""
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
    """The manifest's cells in its order, one for each side that left a record (side ``a`` where none did).
    ``unreadable``: names of records that cannot be read -> why.
    """
    found: dict[tuple[str, str], list[Record]] = {}
    lost: dict[tuple[str, str], list[str]] = {}
    for record in records:
        found.setdefault((record.cell_id, record.side), []).append(record)
    for name, why in (unreadable or {}).items():
        cell_id, side, _ = (*name.rsplit("-", 2), "", "")[:3]
        lost.setdefault((cell_id, side), []).append(why)
    cells = []
    for entry in manifest.cells:
        sides: list[Literal["a", "b"]] = ["a"]
        if (entry.cell_id, "b") in found or (entry.cell_id, "b") in lost:
            sides = ["a", "b"]
        for side in sides:
            own = sorted(found.get((entry.cell_id, side), []), key=lambda record: record.repeat)
            cells.append(CellSummary(entry, side, tuple(own), tuple(lost.get((entry.cell_id, side), ()))))
    return cells


def own_cell(cells: Iterable[CellSummary], arm: str, workload: str) -> CellSummary | None:
    """The arm's own setting (before any axis) under a workload."""
    for cell in cells:
        if cell.side == "a" and cell.entry.is_own and (cell.entry.arm, cell.entry.workload) == (arm, workload):
            return cell
    return None


def why_not_comparable(base: Reading, head: Reading) -> str | None:
    """A sentence where two readings must not be set against each other; None where they may."""
    for reading in (base, head):
        if reading.summary is None:
            return "; ".join(reading.reasons) or f"{reading.name} was not read"
    # Of bytes the source says what was counted; of a time it only describes the clock.
    if base.unit == "bytes" and base.sources != head.sources:
        return f"different meters do not compare: {base.sources[0]} against {head.sources[0]}"
    return None


def pair(base: Reading, head: Reading) -> Ratio | None:
    """Ratio over the repeats that both cells finished; None where there is none, or a value is not above 0."""
    both = sorted(base.by_repeat.keys() & head.by_repeat.keys())
    pairs = [(base.by_repeat[repeat], head.by_repeat[repeat]) for repeat in both]
    pairs = [(before, after) for before, after in pairs if before > 0 and after > 0]
    return paired_ratio([before for before, _ in pairs], [after for _, after in pairs]) if pairs else None

"""Which cells of two sides belong together, and how the processes of each ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slr_bench.compare.cells import CellSummary
from slr_bench.compare.comparability import HARNESS
from slr_bench.compare.sides import SideName
from slr_bench.units import plain


@dataclass(frozen=True)
class Unmatched:
    """A cell that only one side has."""

    cell_id: str
    arm: str
    workload: str
    side: SideName
    """Who has it."""
    coordinates: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    """Why the other side has not, where that shows: it is there under another name, or its source refuses it."""


@dataclass(frozen=True)
class Ends:
    """How the processes of a cell ended on both sides."""

    cell_id: str
    arm: str
    workload: str
    coordinates: Mapping[str, Any]
    base: Mapping[str, int]
    """Outcome -> processes."""
    head: Mapping[str, int]
    reason: str | None
    """Of the head's first process that did not end ok."""
    disturbed: int
    """Processes of either side that count and were disturbed: their times are suspect, traced bytes are not."""


def unmatched(cell: CellSummary, own: SideName, other: SideName, others: Sequence[CellSummary]) -> Unmatched:
    """A cell without a partner; ``others`` are those of the other side without one."""
    entry, reason = cell.entry, None
    for candidate in (another.entry for another in others if another.entry.workload == entry.workload):
        if candidate.cell_id == entry.cell_id:
            reason = f"renamed: the {other} has this setting as arm {plain(candidate.arm, 60)}"
        elif (candidate.arm, candidate.coordinates) == (entry.arm, entry.coordinates):
            reason = f"its setting changed: the {other} has this arm as cell {candidate.cell_id}"
    return Unmatched(entry.cell_id, entry.arm, entry.workload, own, entry.coordinates, reason)


def ends(base: CellSummary | None, head: CellSummary | None) -> Ends:
    """How a cell's processes ended on the sides that have it."""
    cell = base or head
    assert cell is not None
    counts = [dict(side.outcomes) if side else {} for side in (base, head)]
    return Ends(
        cell_id=cell.entry.cell_id,
        arm=cell.entry.arm,
        workload=cell.entry.workload,
        coordinates=cell.entry.coordinates,
        base={str(outcome): count for outcome, count in counts[0].items()},
        head={str(outcome): count for outcome, count in counts[1].items()},
        reason=plain(head.reasons[0]) if head and head.reasons else None,
        disturbed=sum(bool(record.marks) for side in (base, head) if side for record in side.finished),
    )


def unread(cells: Sequence[CellSummary], shown: set[str]) -> dict[str, str]:
    """Metrics that records of the cells name and that are not ``shown``, with why."""
    found: dict[str, str] = {}
    for cell in cells:
        for name, reading in cell.readings.items():
            if name not in shown:
                default = "what measuring cost is not compared" if name in HARNESS else "no cell of both sides reads it"
                found.setdefault(name, plain(reading.reasons[0]) if reading.reasons else default)
    return found

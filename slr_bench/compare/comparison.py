"""Compare two sides cell by cell and metric by metric.

Each cell has its own verdict, so that among many equal cells some raise a false alarm (`VERDICT_ALPHA` each).
``overall`` has one verdict per workload and metric, over all cells that compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slr_bench.compare import notebook
from slr_bench.compare.cells import BROKEN, CellSummary, SideName, read_side
from slr_bench.compare.comparability import HARNESS, PairingKind
from slr_bench.compare.judgement import ComparedCell, ComparedMetric, judge_cell, judge_overall
from slr_bench.errors import NotComparableError
from slr_bench.units import plain

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Unmatched:
    """A cell that only one side has."""

    cell_id: str
    arm: str
    workload: str
    side: SideName
    """The side that has the cell."""
    coordinates: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    """Why the other side lacks it, if that is known: it has another name there, or the source refuses the arm."""


@dataclass(frozen=True)
class OutcomePair:
    """Outcomes of a cell's processes on both sides."""

    cell_id: str
    arm: str
    workload: str
    coordinates: Mapping[str, Any]
    base: Mapping[str, int]
    """Outcome -> number of processes."""
    head: Mapping[str, int]
    reason: str | None
    """Reason of the head's first process that did not end ok."""
    disturbed: int
    """Finished processes of either side with interference: their byte counts are still valid, their times are not."""


@dataclass(frozen=True)
class Comparison:
    """Base against head."""

    pairing: PairingKind
    cells: tuple[ComparedCell, ...]
    overall: tuple[ComparedMetric, ...]
    unmatched: tuple[Unmatched, ...]
    problems: tuple[str, ...] = ()
    """Files of either side that are not readable records."""
    base: str = "base"
    """Name of the side: a revision, or a directory."""
    head: str = "head"
    outcomes: tuple[OutcomePair, ...] = ()
    """Outcomes of every cell that either side has."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Metrics that are in records but make no row, with the reason."""

    @property
    def crashed(self) -> tuple[OutcomePair, ...]:
        """Cells of the head in which a process crashed or timed out."""
        return tuple(pair for pair in self.outcomes if BROKEN & pair.head.keys())

    def to_dict(self) -> dict[str, object]:
        """Return JSON values: ``base, head, cells, overall, unmatched, ends, problems``."""
        return {
            "base": self.base,
            "head": self.head,
            "cells": [cell.to_dict() for cell in self.cells],
            "overall": [metric.to_dict() for metric in self.overall],
            "unmatched": [asdict(cell) for cell in self.unmatched],
            "ends": [asdict(pair) for pair in self.outcomes],
            "problems": list(self.problems),
        }

    def to_frame(self) -> pandas.DataFrame:
        """Return one row per cell and metric. Unknown values are NaN, a missing verdict is None."""
        return notebook.comparison_frame(self.cells)

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        return notebook.comparison_html(f"{self.base} → {self.head}", self.cells)


def compare_runs(
    base_dir: Path,
    head_dir: Path,
    *,
    interleaved: bool = False,
    names: tuple[str | None, str | None] = (None, None),
    arm: str | None = None,
) -> Comparison:
    """Compare side a of two run directories, for all arms or for one.

    Times are judged only if both sides were measured interleaved, process by process; the repeat is then the pair. The
    directories record that themselves; ``interleaved`` states it for those that do not.

    Raises:
        ConfigError: no such arm.
        NoBaselineError: the base is no run directory, or nothing in it was measured.
        NothingMeasuredError: the head is no run directory, or nothing in it was measured or crashed.
        NotComparableError: no cell in common.
    """
    base, head = read_side(base_dir, "base", names[0], arm), read_side(head_dir, "head", names[1], arm)
    keys = [side.pairing.pair if side.pairing else None for side in (base, head)]
    is_interleaved = interleaved or (keys[0] is not None and keys[0] == keys[1])
    pairing = PairingKind.INTERLEAVED if is_interleaved else PairingKind.APART
    problems = (*(f"base: {text}" for text in base.problems), *(f"head: {text}" for text in head.problems))
    found = compare_cells(base.cells_of("a"), head.cells_of("a"), pairing, problems)
    refused = {"base": head.refused, "head": base.refused}  # side that has a cell -> why the other lacks it
    reasoned = tuple(replace(cell, reason=refused[cell.side].get(cell.arm, cell.reason)) for cell in found.unmatched)
    return replace(found, base=base.name, head=head.name, unmatched=reasoned)


def compare_sides(run_dir: Path, *, name: str | None = None, arm: str | None = None) -> Comparison:
    """Compare side a (the base) of an A/A or A/B run directory with its side b; a repeat of both is a pair.

    Raises:
        NoBaselineError: no run directory, or nothing in it was measured.
        NotComparableError: no cell has a side b.
    """
    side = read_side(run_dir, "base", name, arm)
    head = side.cells_of("b")
    if not head:
        raise NotComparableError(f"{run_dir} has records of side a only; measure both sides, or name two directories")
    found = compare_cells(side.cells_of("a"), head, PairingKind.ONE_RUN, tuple(side.problems))
    return replace(found, base=f"{side.name}, side a", head=f"{side.name}, side b")


def compare_cells(
    base: Sequence[CellSummary], head: Sequence[CellSummary], pairing: PairingKind, problems: tuple[str, ...] = ()
) -> Comparison:
    """Compare cells of the same setting and arm, in the order of the base.

    Raises:
        NotComparableError: no cell in common.
    """
    before, after = ({(cell.entry.cell_id, cell.entry.arm): cell for cell in side} for side in (base, head))
    pairs = [(cell, after[key]) for key, cell in before.items() if key in after]
    if not pairs:
        raise NotComparableError(
            f"no cell in common: the base has {_names(base)}, the head {_names(head)}; "
            "measure both with the same grid file (equal setting and arm make the same cell)"
        )
    rows = [row for one, other in pairs for row in judge_cell(one, other, pairing)]
    unmatched = {
        "base": [cell for key, cell in before.items() if key not in after],
        "head": [cell for key, cell in after.items() if key not in before],
    }
    sides: tuple[tuple[SideName, SideName], ...] = (("base", "head"), ("head", "base"))
    return Comparison(
        pairing,
        tuple(rows),
        tuple(judge_overall(pairs, rows)),
        tuple(_unmatched(cell, own, unmatched[other], other) for own, other in sides for cell in unmatched[own]),
        problems,
        outcomes=(
            *(_outcomes(one, other) for one, other in pairs),
            *(_outcomes(cell, None) for cell in unmatched["base"]),
            *(_outcomes(None, cell) for cell in unmatched["head"]),
        ),
        unread=_unread([*base, *head], {row.metric for row in rows}),
    )


def _names(cells: Sequence[CellSummary]) -> str:
    names = [f"{cell.entry.cell_id} ({plain(cell.entry.arm, 60)})" for cell in cells]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "none"


def _unmatched(cell: CellSummary, own: SideName, others: Sequence[CellSummary], other: SideName) -> Unmatched:
    """``others`` are the unmatched cells of the other side."""
    entry, reason = cell.entry, None
    for candidate in (another.entry for another in others if another.entry.workload == entry.workload):
        if candidate.cell_id == entry.cell_id:
            reason = f"renamed: the {other} has this setting as arm {plain(candidate.arm, 60)}"
        elif (candidate.arm, candidate.coordinates) == (entry.arm, entry.coordinates):
            reason = f"its setting changed: the {other} has this arm as cell {candidate.cell_id}"
    return Unmatched(entry.cell_id, entry.arm, entry.workload, own, entry.coordinates, reason)


def _outcomes(base: CellSummary | None, head: CellSummary | None) -> OutcomePair:
    cell = base or head
    assert cell is not None
    counts = [{str(outcome): n for outcome, n in side.outcomes.items()} if side else {} for side in (base, head)]
    return OutcomePair(
        cell_id=cell.entry.cell_id,
        arm=cell.entry.arm,
        workload=cell.entry.workload,
        coordinates=cell.entry.coordinates,
        base=counts[0],
        head=counts[1],
        reason=plain(head.reasons[0]) if head and head.reasons else None,
        disturbed=sum(bool(record.marks) for side in (base, head) if side for record in side.finished),
    )


def _unread(cells: Sequence[CellSummary], shown: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for cell in cells:
        for name, reading in cell.readings.items():
            if name not in shown:
                default = "the cost of measuring is not compared" if name in HARNESS else "no cell of both sides has it"
                found.setdefault(name, plain(reading.reasons[0]) if reading.reasons else default)
    return found

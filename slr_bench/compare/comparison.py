"""Two sides, compared cell by cell and metric by metric: what differs, what does not, and what cannot be said.

A verdict is a cell's: of many cells of equal things, each has its own chance of a false alarm (`VERDICT_ALPHA`).
``overall`` is one verdict a workload and metric, over all cells that compare.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slr_bench.compare.comparability import Bond
from slr_bench.compare.judgement import ComparedCell, ComparedMetric, judge_cell, judge_overall
from slr_bench.compare.summary import CellSummary, summarize_cells
from slr_bench.errors import NoBaselineError, NotComparableError, NothingMeasuredError
from slr_bench.run.store import Manifest, Store

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Unmatched:
    """A cell that only one side has."""

    cell_id: str
    arm: str
    workload: str
    side: str
    """``base`` or ``head``: who has it."""


@dataclass(frozen=True)
class Comparison:
    """Base against head."""

    bond: Bond
    cells: tuple[ComparedCell, ...]
    overall: tuple[ComparedMetric, ...]
    unmatched: tuple[Unmatched, ...]
    problems: tuple[str, ...] = ()
    """Files of either side that are no readable records."""

    def as_json(self) -> dict[str, Any]:
        """JSON values: ``cells, overall, unmatched, problems``."""
        return {
            "cells": [asdict(cell) for cell in self.cells],
            "overall": [asdict(metric) for metric in self.overall],
            "unmatched": [asdict(cell) for cell in self.unmatched],
            "problems": list(self.problems),
        }

    def to_frame(self) -> pandas.DataFrame:
        """One row a cell and metric; unknown figures are NaN, an absent verdict is None."""
        import pandas

        names = ["cell_id", "arm", "workload", "metric", "unit"]
        numbers = ["base", "head", "ratio", "low", "high"]
        columns = [*names, *numbers, "significant", "n", "reason", "is_fault"]
        frame = pandas.DataFrame([asdict(cell) for cell in self.cells], columns=columns)
        return frame.astype(dict.fromkeys(numbers, "float64") | {"significant": "object"})


def compare_runs(base_dir: Path, head_dir: Path, *, in_turn: bool = False) -> Comparison:
    """Two run directories, side a of each. ``in_turn``: the caller measured both interleaved, process by process, the
    repeat being the pair; without it times are shown and not judged.

    Raises:
        NoBaselineError: the base is no run directory or has no record.
        NothingMeasuredError: the head is none or has none.
        NotComparableError: no cell in common.
    """
    base, base_problems = _read(base_dir, NoBaselineError)
    head, head_problems = _read(head_dir, NothingMeasuredError)
    bond = Bond.IN_TURN if in_turn else Bond.APART
    problems = (*(f"base: {text}" for text in base_problems), *(f"head: {text}" for text in head_problems))
    return compare_cells(_of_side(base, "a"), _of_side(head, "a"), bond, problems)


def compare_sides(run_dir: Path) -> Comparison:
    """Side a of an A/A or A/B run directory (the base) against its side b; a repeat of both is a pair.

    Raises:
        NoBaselineError: no run directory, or it has no record.
        NotComparableError: no cell has a side b.
    """
    cells, problems = _read(run_dir, NoBaselineError)
    head = _of_side(cells, "b")
    if not head:
        raise NotComparableError(f"{run_dir} has records of side a only; measure both sides, or name two directories")
    return compare_cells(_of_side(cells, "a"), head, Bond.ONE_RUN, tuple(problems))


def compare_cells(
    base: list[CellSummary], head: list[CellSummary], bond: Bond, problems: tuple[str, ...] = ()
) -> Comparison:
    """Cells of the same setting and arm against each other, in the order of the base.

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
    rows = [row for one, other in pairs for row in judge_cell(one, other, bond)]
    unmatched = [
        Unmatched(cell.entry.cell_id, cell.entry.arm, cell.entry.workload, side)
        for side, own, others in (("base", before, after), ("head", after, before))
        for key, cell in own.items()
        if key not in others
    ]
    return Comparison(bond, tuple(rows), tuple(judge_overall(pairs, rows)), tuple(unmatched), problems)


def _read(
    directory: Path, error: type[NoBaselineError] | type[NothingMeasuredError]
) -> tuple[list[CellSummary], list[str]]:
    store = Store(directory)
    manifest: Manifest | None = store.read_manifest()
    if manifest is None:
        raise error(f"{directory} is no run directory: it has no grid.json; give one that `slr-bench run` wrote")
    records, problems = store.read_records()
    if not records:
        raise error(f"{directory} has no record of a run; run its grid first: {manifest.command}")
    return summarize_cells(manifest, records), problems


def _of_side(cells: list[CellSummary], side: str) -> list[CellSummary]:
    return [cell for cell in cells if cell.side == side]


def _names(cells: list[CellSummary]) -> str:
    names = [f"{cell.entry.cell_id} ({cell.entry.arm})" for cell in cells]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "none"

"""Two sides, compared cell by cell and metric by metric: what differs, what does not, and what cannot be said.

A verdict is a cell's: of many cells of equal things, each has its own chance of a false alarm (`VERDICT_ALPHA`).
``overall`` is one verdict a workload and metric, over all cells that compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slr_bench.compare.cells import CellSummary
from slr_bench.compare.comparability import Bond
from slr_bench.compare.judgement import ComparedCell, ComparedMetric, judge_cell, judge_overall
from slr_bench.compare.matching import Ends, Unmatched, ends, unmatched, unread
from slr_bench.compare.notebook import as_html
from slr_bench.compare.sides import BROKEN, SideName, read_side
from slr_bench.errors import NotComparableError
from slr_bench.units import plain

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Comparison:
    """Base against head."""

    bond: Bond
    cells: tuple[ComparedCell, ...]
    overall: tuple[ComparedMetric, ...]
    unmatched: tuple[Unmatched, ...]
    problems: tuple[str, ...] = ()
    """Files of either side that are no readable records."""
    base: str = "base"
    """What the sides are called: a revision, or a directory."""
    head: str = "head"
    ends: tuple[Ends, ...] = ()
    """Of every cell that either side has."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Metrics that records name and that make no row, with why."""

    @property
    def crashed(self) -> tuple[Ends, ...]:
        """Cells of the head of which a process crashed or timed out."""
        return tuple(ends for ends in self.ends if BROKEN & ends.head.keys())

    def as_json(self) -> dict[str, Any]:
        """JSON values: ``base, head, cells, overall, unmatched, ends, problems``."""
        return {
            "base": self.base,
            "head": self.head,
            "cells": [asdict(cell) for cell in self.cells],
            "overall": [asdict(metric) for metric in self.overall],
            "unmatched": [asdict(cell) for cell in self.unmatched],
            "ends": [asdict(cell) for cell in self.ends],
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

    def _repr_html_(self) -> str:
        """A table in a notebook."""
        return as_html(f"{self.base} → {self.head}", self.cells)


def compare_runs(
    base_dir: Path,
    head_dir: Path,
    *,
    in_turn: bool = False,
    names: tuple[str | None, str | None] = (None, None),
    arm: str | None = None,
) -> Comparison:
    """Two run directories, side a of each, all arms or one. Times are judged where both were measured interleaved,
    process by process, the repeat being the pair: the directories say so themselves, or ``in_turn`` does.

    Raises:
        ConfigError: no such arm.
        NoBaselineError: the base is no run directory, or has no run that was measured.
        NothingMeasuredError: the head is none, or has none and did not crash either.
        NotComparableError: no cell in common.
    """
    base, head = read_side(base_dir, "base", names[0], arm), read_side(head_dir, "head", names[1], arm)
    pairs = [side.turn.pair if side.turn else None for side in (base, head)]
    bond = Bond.IN_TURN if in_turn or (pairs[0] is not None and pairs[0] == pairs[1]) else Bond.APART
    problems = (*(f"base: {text}" for text in base.problems), *(f"head: {text}" for text in head.problems))
    found = compare_cells(base.of("a"), head.of("a"), bond, problems)
    refused = {"base": head.refused, "head": base.refused}  # who has a cell: why the other has not
    lone = tuple(replace(cell, reason=refused[cell.side].get(cell.arm, cell.reason)) for cell in found.unmatched)
    return replace(found, base=base.name, head=head.name, unmatched=lone)


def compare_sides(run_dir: Path, *, name: str | None = None, arm: str | None = None) -> Comparison:
    """Side a of an A/A or A/B run directory (the base) against its side b; a repeat of both is a pair.

    Raises:
        NoBaselineError: no run directory, or it has no run that was measured.
        NotComparableError: no cell has a side b.
    """
    side = read_side(run_dir, "base", name, arm)
    head = side.of("b")
    if not head:
        raise NotComparableError(f"{run_dir} has records of side a only; measure both sides, or name two directories")
    found = compare_cells(side.of("a"), head, Bond.ONE_RUN, tuple(side.problems))
    return replace(found, base=f"{side.name}, side a", head=f"{side.name}, side b")


def compare_cells(
    base: Sequence[CellSummary], head: Sequence[CellSummary], bond: Bond, problems: tuple[str, ...] = ()
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
    lone = {
        "base": [cell for key, cell in before.items() if key not in after],
        "head": [cell for key, cell in after.items() if key not in before],
    }
    sides: tuple[tuple[SideName, SideName], ...] = (("base", "head"), ("head", "base"))
    return Comparison(
        bond,
        tuple(rows),
        tuple(judge_overall(pairs, rows)),
        tuple(unmatched(cell, own, other, lone[other]) for own, other in sides for cell in lone[own]),
        problems,
        ends=(
            *(ends(one, other) for one, other in pairs),
            *(ends(cell, None) for cell in lone["base"]),
            *(ends(None, cell) for cell in lone["head"]),
        ),
        unread=unread([*base, *head], {row.metric for row in rows}),
    )


def _names(cells: Sequence[CellSummary]) -> str:
    names = [f"{cell.entry.cell_id} ({plain(cell.entry.arm, 60)})" for cell in cells]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "none"

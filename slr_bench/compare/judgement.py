"""The verdict on one metric of one cell, and on a metric over all cells."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slr_bench.compare.cells import DETERMINISTIC, CellSummary, Reading, pair
from slr_bench.compare.comparability import Bond, compared_metrics, why_apart
from slr_bench.compare.statistics import MIN_PROCESSES, Ratio, paired_ratio
from slr_bench.units import plain

Pairs = Sequence[tuple[CellSummary, CellSummary]]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What two sides allow to say about one metric."""

    ratio: float | None = None
    """head / base; None where they do not compare."""
    low: float | None = None
    """Of a cell's ratio: itself where exact; a 99 % interval from 8 pairs on, the least of the pairs below. Over
    cells, of exact metrics the least cell's ratio."""
    high: float | None = None
    significant: bool | None = None
    """None: no verdict; ``reason`` says why."""
    n: int = 0
    """Pairs of processes; of exact metrics processes of the side with fewer."""
    reason: str | None = None
    is_fault: bool = False
    """A metric that must be the same in every process of a side is not."""


@dataclass(frozen=True, kw_only=True)
class ComparedCell(Judgement):
    """One metric of one cell, base against head."""

    cell_id: str
    arm: str
    workload: str
    metric: str
    unit: str
    base: float | None
    """Median over the processes; None where there is none."""
    head: float | None
    coordinates: Mapping[str, Any]
    """Dotted key -> value of the axes that made the cell."""
    base_range: tuple[float, float] | None
    """Least and most of the processes, from 8 on the limits of their median; None where there is no median."""
    head_range: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class ComparedMetric(Judgement):
    """One metric of one workload over all cells that compare: the ratio is the geometric mean over them, and of noisy
    metrics the middle of it over pairs."""

    workload: str
    metric: str
    unit: str
    cells: int
    """Cells that compare."""
    different: int
    """Those of them with a significant difference."""


def judge_cell(base: CellSummary, head: CellSummary, bond: Bond) -> Iterable[ComparedCell]:
    """A row for every metric that either side read."""
    for metric, unit in compared_metrics(base, head).items():
        reason = why_apart(base, head, metric, bond)
        if reason is not None:
            found = Judgement(reason=plain(reason))
        else:
            judge = _exact if metric in DETERMINISTIC else _noisy
            found = judge(base.readings[metric], head.readings[metric])
        yield ComparedCell(
            cell_id=base.entry.cell_id,
            arm=base.entry.arm,
            workload=base.entry.workload,
            metric=metric,
            unit=unit,
            base=base.value(metric),
            head=head.value(metric),
            coordinates=base.entry.coordinates,
            base_range=_range(base, metric),
            head_range=_range(head, metric),
            **vars(found),
        )


def _range(cell: CellSummary, metric: str) -> tuple[float, float] | None:
    reading = cell.readings.get(metric)
    return (reading.summary.low, reading.summary.high) if reading and reading.summary else None


def _exact(base: Reading, head: Reading) -> Judgement:
    """Any difference is one; a side that disagrees with itself is a fault and allows no verdict."""
    assert base.summary is not None
    assert head.summary is not None
    n = min(base.summary.n, head.summary.n)
    for side, summary in (("base", base.summary), ("head", head.summary)):
        if summary.kind == "disagreement":
            reason = (
                f"fault: {base.name} must be the same in every process, and in the {side}'s it runs from "
                f"{summary.low:.15g} to {summary.high:.15g}; find the cause before relying on it"
            )
            return Judgement(n=n, reason=reason, is_fault=True)
    before, after = base.summary.median, head.summary.median
    ratio = after / before if before else 1.0 if after == before else None
    return Judgement(ratio=ratio, low=ratio, high=ratio, significant=before != after, n=n)


def _noisy(base: Reading, head: Reading) -> Judgement:
    found = pair(base, head)
    return _of_ratio(found) if found else Judgement(reason="no repeat that both sides finished with a value above 0")


def _of_ratio(found: Ratio) -> Judgement:
    too_few = found.verdict == "n too small"
    count = "1 pair" if found.n == 1 else f"{found.n} pairs"
    return Judgement(
        ratio=found.ratio,
        low=found.low,
        high=found.high,
        significant=None if too_few else found.verdict != "same",
        n=found.n,
        reason=f"{count}: min-max, no verdict below {MIN_PROCESSES}" if too_few else None,
    )


def judge_overall(pairs: Pairs, rows: Sequence[ComparedCell]) -> Iterable[ComparedMetric]:
    """One line a workload and metric, in the order of the rows."""
    groups: dict[tuple[str, str, str], list[ComparedCell]] = {}
    for row in rows:
        groups.setdefault((row.workload, row.metric, row.unit), []).append(row)
    cells = {(base.entry.cell_id, base.entry.arm): (base, head) for base, head in pairs}
    for (workload, metric, unit), group in groups.items():
        compared = [row for row in group if row.significant is not None or row.ratio is not None]
        if not compared:
            found = Judgement(
                reason=next((row.reason for row in group if row.reason is not None), None),
                is_fault=any(row.is_fault for row in group),
            )
        elif metric in DETERMINISTIC:
            found = _exact_overall(compared)
        else:
            found = _noisy_overall(metric, [cells[row.cell_id, row.arm] for row in compared])
        yield ComparedMetric(
            workload=workload,
            metric=metric,
            unit=unit,
            cells=len(compared),
            different=sum(row.significant is True for row in compared),
            **vars(found),
        )


def _exact_overall(rows: Sequence[ComparedCell]) -> Judgement:
    ratios = [row.ratio for row in rows if row.ratio is not None]
    significant, n = any(row.significant for row in rows), min(row.n for row in rows)
    if not ratios or min(ratios) <= 0:
        return Judgement(significant=significant, n=n, reason="a value of 0 has no ratio")
    mean = statistics.geometric_mean(ratios)
    return Judgement(ratio=mean, low=min(ratios), high=max(ratios), significant=significant, n=n)


def _noisy_overall(metric: str, members: Pairs) -> Judgement:
    """A repeat is one round through the cells: the mean of its log-ratios is one pair of the whole."""
    readings = [(base.readings[metric], head.readings[metric]) for base, head in members]
    rounds = set.intersection(*(_whole_repeats(base, head) for base, head in readings))
    if not rounds:
        return Judgement(reason="no repeat that both sides finished in every cell")
    ratios = [
        math.exp(statistics.fmean(math.log(head.by_repeat[turn] / base.by_repeat[turn]) for base, head in readings))
        for turn in sorted(rounds)
    ]
    return _of_ratio(paired_ratio([1.0] * len(ratios), ratios))


def _whole_repeats(base: Reading, head: Reading) -> set[int]:
    both = base.by_repeat.keys() & head.by_repeat.keys()
    return {turn for turn in both if base.by_repeat[turn] > 0 and head.by_repeat[turn] > 0}

"""Judge one metric of one cell, and one metric over all cells."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Final, Literal

from slr_bench.compare.cells import DETERMINISTIC, CellSummary, Reading, pair
from slr_bench.compare.comparability import PairingKind, compared_metrics, family, larger_is_better, why_incomparable
from slr_bench.compare.statistics import MIN_PROCESSES, Ratio, paired_ratio
from slr_bench.grid.description import GENERIC, WorkloadDescription
from slr_bench.units import plain

Pairs = Sequence[tuple[CellSummary, CellSummary]]
Word = Literal["fault", "n too small", "not comparable", "equal", "~", "worse", "better", "different"]
SAME: Final = "~"
"""No significant difference. That is not the same as equal."""
TOO_FEW: Final = "n too small"
"""There are too few pairs for a verdict."""


class Difference(Enum):
    """The answer to whether two sides differ; its value is the one in the JSON output."""

    SIGNIFICANT = True
    NOT_SIGNIFICANT = False
    NOT_JUDGED = None


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The result for one metric of two sides."""

    ratio: float | None = None
    """head / base; None if the sides do not compare."""
    low: float | None = None
    """Lower limit of the ratio: the ratio itself for exact metrics, a 99 % interval from 8 pairs on, the least of the
    pairs below. Over all cells of an exact metric, the least ratio of a cell."""
    high: float | None = None
    difference: Difference = Difference.NOT_JUDGED
    """If it is not judged, ``reason`` says why."""
    n: int = 0
    """Pairs of processes; for exact metrics the processes of the side with fewer."""
    reason: str | None = None
    is_fault: bool = False
    """A metric that must be the same in every process of a side is not."""

    @property
    def is_significant(self) -> bool:
        """True if the sides differ beyond doubt."""
        return self.difference is Difference.SIGNIFICANT

    @property
    def is_judged(self) -> bool:
        """True if there is a verdict."""
        return self.difference is not Difference.NOT_JUDGED

    def to_dict(self) -> dict[str, object]:
        """Return JSON values."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "description"}
        renamed = {("significant" if name == "difference" else name): value for name, value in values.items()}
        return renamed | {"significant": self.difference.value}


class _OfMetric:
    """Properties that a metric's name, unit and workload determine."""

    metric: str
    unit: str
    description: WorkloadDescription

    @property
    def needs_interleaving(self) -> bool:
        """True if only values from one interleaved measurement can be compared."""
        return family(self.metric, self.unit, self.description).interleaved

    @property
    def larger_is_better(self) -> bool:
        """True if a larger value is better."""
        return larger_is_better(self.metric, self.unit, self.description)


@dataclass(frozen=True, kw_only=True)
class ComparedCell(Judgement, _OfMetric):
    """One metric of one cell, base against head."""

    cell_id: str
    arm: str
    workload: str
    metric: str
    unit: str
    base: float | None
    """Median over the processes; None if there is none."""
    head: float | None
    coordinates: Mapping[str, Any]
    """Dotted key -> value of the axes that made the cell."""
    base_range: tuple[float, float] | None
    """Least and most of the processes; from 8 processes on, the limits of their median. None if there is no median."""
    head_range: tuple[float, float] | None
    description: WorkloadDescription = field(default=GENERIC, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class ComparedMetric(Judgement, _OfMetric):
    """One metric of one workload over all cells that compare.

    The ratio is the geometric mean over the cells. For noisy metrics it is the centre of that mean over the pairs.
    """

    workload: str
    metric: str
    unit: str
    cells: int
    """Cells that compare."""
    different: int
    """Cells with a significant difference."""
    description: WorkloadDescription = field(default=GENERIC, repr=False, compare=False)


def judge_cell(base: CellSummary, head: CellSummary, pairing: PairingKind) -> Iterable[ComparedCell]:
    """Yield a row for every metric that either side measured."""
    for metric, unit in compared_metrics(base, head).items():
        reason = why_incomparable(base, head, metric, pairing)
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
            description=base.description,
            **vars(found),
        )


def _range(cell: CellSummary, metric: str) -> tuple[float, float] | None:
    reading = cell.readings.get(metric)
    return (reading.summary.low, reading.summary.high) if reading and reading.summary else None


def _difference(is_different: bool) -> Difference:
    return Difference.SIGNIFICANT if is_different else Difference.NOT_SIGNIFICANT


def _exact(base: Reading, head: Reading) -> Judgement:
    """Treat any difference as significant. A side whose processes differ is a fault and allows no verdict."""
    assert base.summary is not None
    assert head.summary is not None
    n = min(base.summary.n, head.summary.n)
    for side, summary in (("base", base.summary), ("head", head.summary)):
        if summary.kind == "disagreement":
            reason = (
                f"fault: {base.name} must be the same in every process, but in the {side} it ranges from "
                f"{summary.low:.15g} to {summary.high:.15g}; find the cause before relying on it"
            )
            return Judgement(n=n, reason=reason, is_fault=True)
    before, after = base.summary.median, head.summary.median
    ratio = after / before if before else 1.0 if after == before else None
    return Judgement(ratio=ratio, low=ratio, high=ratio, difference=_difference(before != after), n=n)


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
        difference=Difference.NOT_JUDGED if too_few else _difference(found.verdict != "same"),
        n=found.n,
        reason=f"{count}: min-max, no verdict below {MIN_PROCESSES}" if too_few else None,
    )


def judge_overall(pairs: Pairs, rows: Sequence[ComparedCell]) -> Iterable[ComparedMetric]:
    """Yield one line per workload and metric, in the order of the rows."""
    groups: dict[tuple[str, str, str], list[ComparedCell]] = {}
    for row in rows:
        groups.setdefault((row.workload, row.metric, row.unit), []).append(row)
    cells = {(base.entry.cell_id, base.entry.arm): (base, head) for base, head in pairs}
    for (workload, metric, unit), group in groups.items():
        compared = [row for row in group if row.is_judged or row.ratio is not None]
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
            different=sum(row.is_significant for row in compared),
            description=group[0].description,
            **vars(found),
        )


def _exact_overall(rows: Sequence[ComparedCell]) -> Judgement:
    ratios = [row.ratio for row in rows if row.ratio is not None]
    difference, n = _difference(any(row.is_significant for row in rows)), min(row.n for row in rows)
    if not ratios or min(ratios) <= 0:
        return Judgement(difference=difference, n=n, reason="a value of 0 has no ratio")
    mean = statistics.geometric_mean(ratios)
    return Judgement(ratio=mean, low=min(ratios), high=max(ratios), difference=difference, n=n)


def _noisy_overall(metric: str, members: Pairs) -> Judgement:
    """Treat a repeat as one round through the cells; the mean of its log-ratios is one pair."""
    readings = [(base.readings[metric], head.readings[metric]) for base, head in members]
    rounds = set.intersection(*(_complete_repeats(base, head) for base, head in readings))
    if not rounds:
        return Judgement(reason="no repeat that both sides finished in every cell")
    ratios = [
        math.exp(statistics.fmean(math.log(head.by_repeat[turn] / base.by_repeat[turn]) for base, head in readings))
        for turn in sorted(rounds)
    ]
    return _of_ratio(paired_ratio([1.0] * len(ratios), ratios))


def _complete_repeats(base: Reading, head: Reading) -> set[int]:
    both = base.by_repeat.keys() & head.by_repeat.keys()
    return {turn for turn in both if base.by_repeat[turn] > 0 and head.by_repeat[turn] > 0}


def verdict_word(found: ComparedCell | ComparedMetric) -> Word:
    """Return the verdict as one word; ``different`` is a significant difference without a direction."""
    if found.is_fault:
        return "fault"
    if not found.is_judged:
        return TOO_FEW if found.ratio is not None and found.n < MIN_PROCESSES else "not comparable"
    if not found.is_significant:
        return "equal" if found.metric in DETERMINISTIC else SAME
    growth = _growth(found)
    if not growth:
        return "different"
    return "worse" if (growth < 0) == found.larger_is_better else "better"


def _growth(found: ComparedCell | ComparedMetric) -> float:
    if found.ratio is not None:
        return found.ratio - 1
    if isinstance(found, ComparedCell) and found.base is not None and found.head is not None:  # from 0: no ratio
        return found.head - found.base
    return 0.0

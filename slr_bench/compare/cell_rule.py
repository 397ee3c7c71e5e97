"""One rule on one metric of one cell."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Final, Literal

from slr_bench.compare.cells import DETERMINISTIC
from slr_bench.compare.comparability import family
from slr_bench.compare.judgement import ComparedCell
from slr_bench.compare.rules import Rule
from slr_bench.compare.statistics import MIN_PROCESSES
from slr_bench.compare.verdict import is_bigger_better

Ruling = Literal["kept", "broken", "better", "unjudged"]
_MORE: Final = f"measure more with --repeats {MIN_PROCESSES} or more"


@dataclass(frozen=True)
class CellVerdict:
    """What a rule says of a cell."""

    row: ComparedCell
    ruling: Ruling
    reason: str | None = None
    """Of the ruling, where the row does not tell."""

    def as_json(self) -> dict[str, Any]:
        """JSON values: those of the row, ``ruling``, and the reason."""
        return asdict(self.row) | {"ruling": self.ruling, "reason": self.reason or self.row.reason}


def judge_cell_by(rule: Rule, row: ComparedCell, never_ran: bool = False) -> CellVerdict:
    """``never_ran``: the base had too little memory for this cell."""
    if row.significant is None:
        return _without_verdict(rule, row, never_ran)
    worse = _worsening(rule, row)
    if row.significant and worse < 0:
        return CellVerdict(row, "better")
    return CellVerdict(row, "broken" if row.significant and worse > rule.limit.amount else "kept")


def _without_verdict(rule: Rule, row: ComparedCell, never_ran: bool) -> CellVerdict:
    if never_ran and row.base is None and row.head is not None:
        return CellVerdict(row, "better", "the base ran out of memory, the head does not")
    if row.ratio is None or row.low is None or row.high is None or row.is_fault:
        return CellVerdict(row, "unjudged")
    if family(row.metric, row.unit).in_turn:
        return CellVerdict(row, "unjudged", f"{row.reason}; {_MORE}")
    return _by_range(rule, row)


def _by_range(rule: Rule, row: ComparedCell) -> CellVerdict:
    """Too few pairs for a test: they convict nobody (three pairs of equal things point one way in a quarter of all
    cases), but where all lie within the limit there is nothing to test.
    """
    if max(_worsening(rule, row, ratio) for ratio in (row.low, row.high)) <= rule.limit.amount:
        return CellVerdict(row, "kept", f"all pairs ({row.n}) lie within the limit")
    return CellVerdict(row, "unjudged", f"{row.reason}, and not all lie within the limit; {_MORE}")


def _worsening(rule: Rule, row: ComparedCell, ratio: float | None = None) -> Fraction:
    """How much worse the head is, in the limit's own measure; below 0: better. Of a noisy metric by the ratio of its
    pairs, of an exact one by its values.
    """
    assert row.base is not None
    assert row.head is not None
    base, head = Fraction(row.base), Fraction(row.head)
    if row.metric not in DETERMINISTIC:
        found = ratio if ratio is not None else row.ratio
        head = base * Fraction(found) if found is not None else head
    worse = base - head if is_bigger_better(row.metric, row.unit) else head - base
    if rule.limit.kind == "points":
        return 100 * worse
    if rule.limit.kind != "percent":
        return worse
    if not base:  # from nothing to something is more than any percentage
        return rule.limit.amount + 1 if worse > 0 else worse
    return 100 * worse / abs(base)

"""Judge rules over a comparison, cell by cell: did this commit make it worse?

A difference breaks a rule if it is certain and larger than the limit. For exact metrics every difference is certain;
for noisy ones the paired test must call it significant. If a rule cannot be evaluated, the gate reports it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Final, Literal

from slr_bench.compare.cells import DETERMINISTIC
from slr_bench.compare.comparison import Comparison, OutcomePair, Unmatched
from slr_bench.compare.judgement import ComparedCell
from slr_bench.compare.rules import UNITS, Rule, RuleSet
from slr_bench.compare.statistics import MIN_PROCESSES
from slr_bench.errors import EXIT_CELL_CRASHED, EXIT_NOT_COMPARABLE, EXIT_OK, EXIT_REGRESSION, ConfigError
from slr_bench.record import Outcome
from slr_bench.units import nearest, plain

GateVerdict = Literal["pass", "regression", "crashed", "not comparable"]
RuleVerdict = Literal["pass", "fail", "not comparable", "skipped"]
Ruling = Literal["kept", "broken", "better", "unjudged"]
EXIT_CODES: Final[Mapping[GateVerdict, int]] = {
    "pass": EXIT_OK,
    "regression": EXIT_REGRESSION,
    "crashed": EXIT_CELL_CRASHED,
    "not comparable": EXIT_NOT_COMPARABLE,
}
_MEMORY_OUTCOMES = frozenset({Outcome.OOM_GPU, Outcome.OOM_HOST, Outcome.SKIPPED_DOMINATED})
"""Outcomes of a cell in the head that are a regression if the cell ended ok in the base."""
_MORE: Final = f"measure more with --repeats {MIN_PROCESSES} or more"


@dataclass(frozen=True)
class CellVerdict:
    """Ruling of a rule on a cell."""

    row: ComparedCell
    ruling: Ruling
    reason: str | None = None
    """Why, if the row itself does not say it."""

    def to_dict(self) -> dict[str, object]:
        """Return JSON values: those of the row, ``ruling``, and the reason."""
        return self.row.to_dict() | {"ruling": self.ruling, "reason": self.reason or self.row.reason}


@dataclass(frozen=True)
class RuleResult:
    """A rule with its verdict on every cell that has the metric."""

    rule: Rule
    cells: tuple[CellVerdict, ...]
    reason: str | None = None
    """Why the rule could not be evaluated in any cell."""

    def with_ruling(self, ruling: Ruling) -> tuple[CellVerdict, ...]:
        """Return the cells with one ruling."""
        return tuple(cell for cell in self.cells if cell.ruling == ruling)

    @property
    def verdict(self) -> RuleVerdict:
        """``fail`` if a cell broke the rule; ``skipped`` if it is optional and could not be evaluated everywhere."""
        if self.with_ruling("broken"):
            return "fail"
        if self.with_ruling("unjudged") or not self.cells:
            return "skipped" if self.rule.optional else "not comparable"
        return "pass"

    def to_dict(self) -> dict[str, object]:
        """Return JSON values. ``cells`` are those that broke the rule; cells that kept it are only counted."""
        return {
            "rule": self.rule.text,
            "metric": self.rule.metric,
            "optional": self.rule.optional,
            "verdict": self.verdict,
            "reason": self.reason,
            "cells": [cell.to_dict() for cell in self.with_ruling("broken")],
            "better": [cell.to_dict() for cell in self.with_ruling("better")],
            "unjudged": [cell.to_dict() for cell in self.with_ruling("unjudged")],
            "kept": len(self.with_ruling("kept")),
        }


@dataclass(frozen=True)
class GateResult:
    """The verdict of the gate and everything it is based on."""

    comparison: Comparison
    rules: tuple[RuleResult, ...]
    missing: tuple[Unmatched, ...]
    """Cells that the head lacks and must not lack."""
    allowed: tuple[Unmatched, ...]
    """Cells that the head may lack."""
    no_longer: tuple[OutcomePair, ...]
    """Cells that ended ok in the base and run out of memory in the head."""

    @property
    def verdict(self) -> GateVerdict:
        """A regression counts even if something else could not be measured."""
        if self.missing or self.no_longer or any(result.verdict == "fail" for result in self.rules):
            return "regression"
        if self.comparison.crashed:
            return "crashed"
        if any(result.verdict == "not comparable" for result in self.rules):
            return "not comparable"
        return "pass"

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        return EXIT_CODES[self.verdict]

    @property
    def better(self) -> tuple[CellVerdict, ...]:
        """Cells in which a metric with a rule improved, so that the baseline can be renewed."""
        return tuple(cell for result in self.rules for cell in result.with_ruling("better"))

    def to_dict(self) -> dict[str, object]:
        """Return JSON values: the comparison's, ``verdict, exit_code, rules, missing, allowed, no_longer, crashed``."""
        return self.comparison.to_dict() | {
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "rules": [result.to_dict() for result in self.rules],
            "missing": [asdict(cell) for cell in self.missing],
            "allowed": [asdict(cell) for cell in self.allowed],
            "no_longer": [asdict(pair) for pair in self.no_longer],
            "crashed": [asdict(pair) for pair in self.comparison.crashed],
            "baseline_can_be_renewed": bool(self.better),
        }


def judge_gate(comparison: Comparison, rules: RuleSet) -> GateResult:
    """Judge every rule, and the cells that are missing, run out of memory, or crash.

    Raises:
        ConfigError: a rule names a metric that no record has, or its limit has another unit.
    """
    lacking = [cell for cell in comparison.unmatched if cell.side == "base"]
    allowed = tuple(cell for cell in lacking if _is_allowed(cell, rules.allow_missing))
    return GateResult(
        comparison=comparison,
        rules=tuple(_judge_rule(rule, comparison) for rule in rules.rules),
        missing=tuple(cell for cell in lacking if cell not in allowed),
        allowed=allowed,
        no_longer=tuple(pair for pair in comparison.outcomes if _lost_to_memory(pair)),
    )


def _judge_rule(rule: Rule, comparison: Comparison) -> RuleResult:
    rows = [row for row in comparison.cells if row.metric == rule.metric]
    if not rows:
        return RuleResult(rule, (), _why_no_row(rule, comparison))
    unit = UNITS.get(rule.limit.kind, rows[0].unit)
    if unit != rows[0].unit:
        raise ConfigError(
            f"rule {rule.text!r}: {rule.metric} is in {_unit_words(rows[0].unit)}, the limit in {_unit_words(unit)}; "
            "give percent, or that unit"
        )
    outcomes = {(pair.cell_id, pair.arm): pair for pair in comparison.outcomes}
    verdicts = [judge_cell_by(rule, row, _base_lacked_memory(outcomes.get((row.cell_id, row.arm)))) for row in rows]
    return RuleResult(rule, tuple(verdicts))


def _why_no_row(rule: Rule, comparison: Comparison) -> str:
    if rule.metric in comparison.unread:
        return comparison.unread[rule.metric]
    known = {row.metric for row in comparison.cells} | comparison.unread.keys()
    hint = plain(nearest(rule.metric, known), 600)
    raise ConfigError(f"rule {rule.text!r}: no record has a metric {plain(rule.metric)!r}{hint}")


def _unit_words(unit: str) -> str:
    words = {"s": "seconds", "1": "plain counts", "ratio": "a ratio (pp: percentage points)", "J": "joules"}
    return words.get(unit, unit)


def _base_lacked_memory(pair: OutcomePair | None) -> bool:
    """Return whether every process of the base lacked memory."""
    return pair is not None and bool(pair.base) and pair.base.keys() <= _MEMORY_OUTCOMES


def _lost_to_memory(pair: OutcomePair) -> bool:
    return Outcome.OK in pair.base and Outcome.OK not in pair.head and bool(_MEMORY_OUTCOMES & pair.head.keys())


def _is_allowed(cell: Unmatched, patterns: Sequence[str]) -> bool:
    """Match patterns against the arm, the cell's id, the workload, ``workload/arm`` or ``workload/arm/cell_id``."""
    whole = f"{cell.workload}/{cell.arm}"
    names = (cell.arm, cell.cell_id, cell.workload, whole, f"{whole}/{cell.cell_id}")
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def judge_cell_by(rule: Rule, row: ComparedCell, base_lacked_memory: bool = False) -> CellVerdict:
    """Judge one cell by one rule."""
    if not row.is_judged:
        return _without_verdict(rule, row, base_lacked_memory)
    worse = _worsening(rule, row)
    if row.is_significant and worse < 0:
        return CellVerdict(row, "better")
    return CellVerdict(row, "broken" if row.is_significant and worse > rule.limit.amount else "kept")


def _without_verdict(rule: Rule, row: ComparedCell, base_lacked_memory: bool) -> CellVerdict:
    if base_lacked_memory and row.base is None and row.head is not None:
        return CellVerdict(row, "better", "the base ran out of memory, the head does not")
    if row.ratio is None or row.low is None or row.high is None or row.is_fault:
        return CellVerdict(row, "unjudged")
    if row.needs_interleaving:
        return CellVerdict(row, "unjudged", f"{row.reason}; {_MORE}")
    return _by_range(rule, row)


def _by_range(rule: Rule, row: ComparedCell) -> CellVerdict:
    """Judge by the range of the pairs if there are too few for a test.

    A few pairs never break a rule, because three pairs of equal values point in one direction in a quarter of all
    cases. They keep it if all of them are within the limit.
    """
    if max(_worsening(rule, row, ratio) for ratio in (row.low, row.high)) <= rule.limit.amount:
        return CellVerdict(row, "kept", f"all pairs ({row.n}) are within the limit")
    return CellVerdict(row, "unjudged", f"{row.reason}, and not all are within the limit; {_MORE}")


def _worsening(rule: Rule, row: ComparedCell, ratio: float | None = None) -> Fraction:
    """Return how much worse the head is, in the limit's unit; negative if it is better.

    Noisy metrics use the ratio of the pairs, exact metrics use the values.
    """
    assert row.base is not None
    assert row.head is not None
    base, head = Fraction(row.base), Fraction(row.head)
    if row.metric not in DETERMINISTIC:
        found = ratio if ratio is not None else row.ratio
        head = base * Fraction(found) if found is not None else head
    worse = base - head if row.larger_is_better else head - base
    if rule.limit.kind == "points":
        return 100 * worse
    if rule.limit.kind != "percent":
        return worse
    if not base:  # a growth from 0 exceeds any percentage
        return rule.limit.amount + 1 if worse > 0 else worse
    return 100 * worse / abs(base)

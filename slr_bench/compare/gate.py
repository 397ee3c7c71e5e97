"""Did this commit make it worse? Rules judged over a comparison, cell by cell.

A rule is broken by a difference that is certain and larger than its limit: of exact metrics any, of noisy ones one that
the paired test calls significant. What cannot be judged is said and passes nothing in silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

from slr_bench.compare.cell_rule import CellVerdict, Ruling, judge_cell_by
from slr_bench.compare.comparison import Comparison
from slr_bench.compare.matching import Ends, Unmatched
from slr_bench.compare.rules import UNITS, Rule, RuleSet
from slr_bench.errors import EXIT_CELL_CRASHED, EXIT_NOT_COMPARABLE, EXIT_OK, EXIT_REGRESSION, ConfigError
from slr_bench.record import Outcome
from slr_bench.units import nearest, plain

GateVerdict = Literal["pass", "regression", "crashed", "not comparable"]
RuleVerdict = Literal["pass", "fail", "not comparable", "skipped"]
EXIT_CODES: Final[Mapping[GateVerdict, int]] = {
    "pass": EXIT_OK,
    "regression": EXIT_REGRESSION,
    "crashed": EXIT_CELL_CRASHED,
    "not comparable": EXIT_NOT_COMPARABLE,
}
_NO_LONGER = frozenset({Outcome.OOM_GPU, Outcome.OOM_HOST, Outcome.SKIPPED_DOMINATED})
"""Ends of a head's cell that are a regression where the base's ended ok."""


@dataclass(frozen=True)
class RuleResult:
    """A rule over all cells that it is about."""

    rule: Rule
    cells: tuple[CellVerdict, ...]
    reason: str | None = None
    """Why it could be judged in no cell."""

    def of(self, ruling: Ruling) -> tuple[CellVerdict, ...]:
        """The cells of one ruling."""
        return tuple(cell for cell in self.cells if cell.ruling == ruling)

    @property
    def verdict(self) -> RuleVerdict:
        """``fail``: a cell broke it; ``skipped``: it is optional, and could not be judged everywhere."""
        if self.of("broken"):
            return "fail"
        if self.of("unjudged") or not self.cells:
            return "skipped" if self.rule.optional else "not comparable"
        return "pass"


@dataclass(frozen=True)
class GateResult:
    """The gate's answer and all that it rests on."""

    comparison: Comparison
    rules: tuple[RuleResult, ...]
    missing: tuple[Unmatched, ...]
    """Cells that the head lacks and must not."""
    allowed: tuple[Unmatched, ...]
    """Cells that it may lack."""
    no_longer: tuple[Ends, ...]
    """Cells that ended ok in the base and run out of memory in the head."""

    @property
    def verdict(self) -> GateVerdict:
        """A regression that was found stands, whatever else could not be measured."""
        if self.missing or self.no_longer or any(result.verdict == "fail" for result in self.rules):
            return "regression"
        if self.comparison.crashed:
            return "crashed"
        if any(result.verdict == "not comparable" for result in self.rules):
            return "not comparable"
        return "pass"

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return EXIT_CODES[self.verdict]

    @property
    def better(self) -> tuple[CellVerdict, ...]:
        """Cells in which a metric under a rule got better: the baseline can be renewed."""
        return tuple(cell for result in self.rules for cell in result.of("better"))

    def as_json(self) -> dict[str, Any]:
        """JSON values: those of the comparison, ``verdict, exit_code, rules, missing, allowed, no_longer, crashed``."""
        return self.comparison.as_json() | {
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "rules": [_rule_json(result) for result in self.rules],
            "missing": [asdict(cell) for cell in self.missing],
            "allowed": [asdict(cell) for cell in self.allowed],
            "no_longer": [asdict(cell) for cell in self.no_longer],
            "crashed": [asdict(cell) for cell in self.comparison.crashed],
            "baseline_can_be_renewed": bool(self.better),
        }


def _rule_json(result: RuleResult) -> dict[str, Any]:
    """``cells`` are those that broke it; the others are counted or, where not judged, named with why."""
    return {
        "rule": result.rule.text,
        "metric": result.rule.metric,
        "optional": result.rule.optional,
        "verdict": result.verdict,
        "reason": result.reason,
        "cells": [cell.as_json() for cell in result.of("broken")],
        "better": [cell.as_json() for cell in result.of("better")],
        "unjudged": [cell.as_json() for cell in result.of("unjudged")],
        "kept": len(result.of("kept")),
    }


def judge_gate(comparison: Comparison, asked: RuleSet) -> GateResult:
    """Judge every rule, and what needs none: cells that are missing, run out of memory, or crash.

    Raises:
        ConfigError: a rule about a metric that no record has, or with a limit in another unit.
    """
    lacking = [cell for cell in comparison.unmatched if cell.side == "base"]
    allowed = tuple(cell for cell in lacking if _is_allowed(cell, asked.allow_missing))
    return GateResult(
        comparison=comparison,
        rules=tuple(_judge_rule(rule, comparison) for rule in asked.rules),
        missing=tuple(cell for cell in lacking if cell not in allowed),
        allowed=allowed,
        no_longer=tuple(ends for ends in comparison.ends if _runs_no_longer(ends)),
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
    ends = {(cell.cell_id, cell.arm): cell for cell in comparison.ends}
    verdicts = [judge_cell_by(rule, row, _never_ran(ends.get((row.cell_id, row.arm)))) for row in rows]
    return RuleResult(rule, tuple(verdicts))


def _why_no_row(rule: Rule, comparison: Comparison) -> str:
    if rule.metric in comparison.unread:
        return comparison.unread[rule.metric]
    known = {row.metric for row in comparison.cells} | comparison.unread.keys()
    raise ConfigError(f"rule {rule.text!r}: no record has a metric {plain(rule.metric)!r}{_hint(rule.metric, known)}")


def _hint(name: str, known: Iterable[str]) -> str:
    return plain(nearest(name, known), 600)


def _unit_words(unit: str) -> str:
    return {"s": "seconds", "1": "plain counts", "ratio": "a ratio (pp: percentage points)", "J": "joules"}.get(
        unit, unit
    )


def _never_ran(ends: Ends | None) -> bool:
    """Whether the base had too little memory for a cell, and no process of it ended ok."""
    return ends is not None and bool(ends.base) and ends.base.keys() <= _NO_LONGER


def _runs_no_longer(ends: Ends) -> bool:
    return Outcome.OK in ends.base and Outcome.OK not in ends.head and bool(_NO_LONGER & ends.head.keys())


def _is_allowed(cell: Unmatched, patterns: Sequence[str]) -> bool:
    """Patterns match the arm, the cell's id, the workload, ``workload/arm`` or ``workload/arm/cell_id``."""
    whole = f"{cell.workload}/{cell.arm}"
    names = (cell.arm, cell.cell_id, cell.workload, whole, f"{whole}/{cell.cell_id}")
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)

"""A verdict in a word, and which way a metric gets worse."""

from __future__ import annotations

from typing import Final, Literal

from slr_bench.compare.cells import DETERMINISTIC
from slr_bench.compare.judgement import ComparedCell, ComparedMetric
from slr_bench.compare.statistics import MIN_PROCESSES

Word = Literal["fault", "n too small", "not comparable", "equal", "~", "worse", "better", "different"]
SAME: Final = "~"
"""No significant difference, which is not the same as equal."""
TOO_FEW: Final = "n too small"
"""No verdict can be had of so few pairs."""


def is_bigger_better(metric: str, unit: str) -> bool:
    """Whether more of it is better: speeds and accuracies; of everything else (bytes, times, energy) less is."""
    return unit == "1/s" or metric.startswith("accuracy_")


def verdict_word(found: ComparedCell | ComparedMetric) -> Word:
    """What two sides allow to say; ``different`` of a significant difference without a direction."""
    if found.is_fault:
        return "fault"
    if found.significant is None:
        return TOO_FEW if found.ratio is not None and found.n < MIN_PROCESSES else "not comparable"
    if not found.significant:
        return "equal" if found.metric in DETERMINISTIC else SAME
    growth = _growth(found)
    if not growth:
        return "different"
    return "worse" if (growth < 0) == is_bigger_better(found.metric, found.unit) else "better"


def _growth(found: ComparedCell | ComparedMetric) -> float:
    if found.ratio is not None:
        return found.ratio - 1
    if isinstance(found, ComparedCell) and found.base is not None and found.head is not None:  # from 0: no ratio
        return found.head - found.base
    return 0.0

"""Medians, intervals and verdicts over processes; the process is the sampling unit.

Below `MIN_PROCESSES` there is min-max and no verdict: a percentile bootstrap over three processes raises a false alarm
in 27 % of comparisons of equal things.

Intervals are the inversion of exact tests, so they need no table of quantiles and no normal distribution:
of a median the sign test (order statistics), of paired log-ratios the sign-flip permutation test. For the latter,
the means of all 2^n - 1 non-empty subsets split the line into 2^n parts that are equally likely to hold the centre
of a symmetric distribution (Hartigan, "Using subsample values as typical values", JASA 1969).
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

MIN_PROCESSES: Final = 8
"""Processes (pairs) from which an interval and a verdict are given."""
MINIMUM_EFFECT: Final = 0.01
"""Relative difference below which a time is called the same however sure its sign is."""
ALPHA: Final = 0.05
"""Two-sided error of intervals."""
_ENUMERATED: Final = 12
"""Pairs up to which all subsets are taken; beyond it as many random ones, which are as valid (Hartigan 1969)."""

Kind = Literal["exact", "disagreement", "range", "interval"]
Verdict = Literal["faster", "slower", "same", "n too small"]


@dataclass(frozen=True)
class Summary:
    """Values of one quantity over processes."""

    median: float
    low: float
    high: float
    n: int
    kind: Kind
    """``exact`` all equal, as they must be; ``disagreement`` they must be and are not; ``range`` low and high are
    min and max; ``interval`` they hold the median with at least 95 %."""


@dataclass(frozen=True)
class Ratio:
    """head / base over pairs."""

    ratio: float
    """Geometric mean."""
    low: float
    high: float
    n: int
    verdict: Verdict


def summarize(values: Sequence[float], *, deterministic: bool = False) -> Summary:
    """Summary of one value a process. ``deterministic``: equal in every process, or something is wrong.

    Raises:
        ValueError: no value.
    """
    if not values:
        raise ValueError("nothing to summarize: no process gave a value; leave the metric out")
    ordered = sorted(values)
    median, n = statistics.median(ordered), len(ordered)
    if deterministic:
        kind: Kind = "exact" if ordered[0] == ordered[-1] else "disagreement"
        return Summary(median, ordered[0], ordered[-1], n, kind)
    if n < MIN_PROCESSES:
        return Summary(median, ordered[0], ordered[-1], n, "range")
    cut = _sign_test_cut(n)
    return Summary(median, ordered[cut], ordered[-1 - cut], n, "interval")


def _sign_test_cut(n: int) -> int:
    """Values that may be dropped at each end so that the rest still spans the median with 1 - ALPHA."""
    cut, tail = 0, 1.0
    while 2 * (tail + math.comb(n, cut + 1)) <= ALPHA * 2**n:
        cut += 1
        tail += math.comb(n, cut)
    return cut


def center_interval(values: Sequence[float]) -> tuple[float, float]:
    """Limits that hold the centre of symmetry with at least 95 % (from 6 values on; min-max below).

    They are all centres that the two-sided sign-flip permutation test does not reject.
    """
    n = len(values)
    if n <= _ENUMERATED:
        masks: Sequence[int] = range(1, 2**n)
    else:
        # Fixed seed: the same records give the same report.
        generator = random.Random(0)
        masks = [generator.randrange(1, 2**n) for _ in range(2**_ENUMERATED - 1)]
    means = sorted(_subset_mean(values, mask) for mask in masks)
    rank = max(1, math.floor(ALPHA / 2 * (len(means) + 1)))
    return means[rank - 1], means[-rank]


def _subset_mean(values: Sequence[float], mask: int) -> float:
    return statistics.fmean(value for place, value in enumerate(values) if mask >> place & 1)


def paired_ratio(base: Sequence[float], head: Sequence[float], minimum_effect: float = MINIMUM_EFFECT) -> Ratio:
    """head / base of times measured in interleaved pairs. A verdict from 8 pairs on: the interval excludes 1 and the
    mean differs from 1 by ``minimum_effect`` at least; below, the ratio is that of the medians (always between the
    extremes of the pairs' ratios), and low and high are those extremes.

    Raises:
        ValueError: no pair, unequal lengths, or a value that is not above 0.
    """
    if not base or len(base) != len(head):
        raise ValueError(f"pairs needed, got {len(base)} base and {len(head)} head values; keep only complete pairs")
    if min(*base, *head) <= 0:
        raise ValueError(f"a ratio needs values above 0, got {min(*base, *head)}; leave that pair out")
    logs = [math.log(after / before) for before, after in zip(base, head, strict=True)]
    center, n = statistics.fmean(logs), len(logs)
    if n < MIN_PROCESSES:
        ratio = statistics.median(head) / statistics.median(base)
        return Ratio(ratio, math.exp(min(logs)), math.exp(max(logs)), n, "n too small")
    low, high = center_interval(logs)
    verdict: Verdict = "same"
    if abs(center) >= math.log1p(minimum_effect):
        if high < 0:
            verdict = "faster"
        elif low > 0:
            verdict = "slower"
    return Ratio(math.exp(center), math.exp(low), math.exp(high), n, verdict)

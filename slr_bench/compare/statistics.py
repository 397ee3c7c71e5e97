"""Compute medians, intervals and verdicts over processes. The process is the sampling unit.

Below `MIN_PROCESSES` there are extremes and no verdict. A percentile bootstrap over three processes would raise a false
alarm in 27 % of the comparisons of equal code.

Intervals are inversions of exact tests, so they need no table of quantiles and no normal distribution. The interval of
a median inverts the sign test (order statistics). The interval of paired log-ratios inverts the signed-rank test
(Wilcoxon 1945). Its limits are order statistics of the pairwise means, and the estimate is their median (Hodges and
Lehmann, "Estimates of location based on rank tests", 1963). If both sides are equal, chance alone decides which of a
pair is the head, so the test needs no further assumption. docs/decisions/comparing.md explains why ranks and not means.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

MIN_PROCESSES: Final = 8
"""Least number of processes (pairs) for an interval and a verdict."""
MINIMUM_EFFECT: Final = 0.01
"""A time that differs by less than this share counts as the same, even if the direction is certain."""
ALPHA: Final = 0.05
"""Two-sided error of an interval that is only displayed."""
VERDICT_ALPHA: Final = 0.01
"""Two-sided error of a verdict on a ratio and of its interval. With 8 pairs all must point in one direction."""

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
    """``exact``: all values are equal, as they must be. ``disagreement``: they must be equal and are not. ``range``:
    low and high are minimum and maximum. ``interval``: low and high contain the median with at least 95 %."""


@dataclass(frozen=True)
class Ratio:
    """head / base over pairs."""

    ratio: float
    """The Hodges-Lehmann estimate over the pairs; below `MIN_PROCESSES` pairs, the ratio of the medians."""
    low: float
    high: float
    """Limits at 1 - `VERDICT_ALPHA`; below `MIN_PROCESSES` the extremes of the pairs' ratios."""
    n: int
    verdict: Verdict
    p: float | None = None
    """p of the signed-rank test; None below `MIN_PROCESSES`."""


def summarize(values: Sequence[float], *, deterministic: bool = False) -> Summary:
    """Summarize one value per process. ``deterministic`` values must be equal in every process.

    Raises:
        ValueError: no value.
    """
    if not values:
        raise ValueError("nothing to summarize: no process has a value; leave the metric out")
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
    """Return how many values can be dropped at each end while the rest contains the median with 1 - ALPHA."""
    cut, tail = 0, 1.0
    while 2 * (tail + math.comb(n, cut + 1)) <= ALPHA * 2**n:
        cut += 1
        tail += math.comb(n, cut)
    return cut


def center_interval(values: Sequence[float], alpha: float = ALPHA) -> tuple[float, float]:
    """Return limits that contain the centre of symmetry with at least 1 - ``alpha``; the extremes if there are too few.

    The interval has all centres that the two-sided signed-rank test does not reject.
    """
    return _interval(pairwise_means(values), len(values), alpha)


def signed_rank_p(values: Sequence[float]) -> float:
    """Return the two-sided p of the signed-rank test that the centre is 0; at least 2 / 2^n.

    It is ``alpha`` or less exactly if `center_interval` at ``alpha`` excludes 0 (provided that 2 / 2^n <= ``alpha``),
    because both count the same pairwise means. Zeros and ties count against a difference.
    """
    return _p(pairwise_means(values), len(values))


def _interval(means: Sequence[float], n: int, alpha: float) -> tuple[float, float]:
    cut = max(0, bisect.bisect_right(signed_rank_tails(n), alpha / 2) - 1)
    return means[cut], means[-1 - cut]


def _p(means: Sequence[float], n: int) -> float:
    below, above = bisect.bisect_right(means, 0.0), len(means) - bisect.bisect_left(means, 0.0)
    return min(1.0, 2 * signed_rank_tails(n)[min(below, above)])


def pairwise_means(values: Sequence[float]) -> list[float]:
    """Return the sorted means of all n (n + 1) / 2 pairs of values, including each value with itself."""
    pairs = itertools.combinations_with_replacement(values, 2)
    return sorted((one + other) / 2 for one, other in pairs)


@functools.cache
def signed_rank_tails(n: int) -> tuple[float, ...]:
    """Return P(rank sum of the positive values <= t) for t = 0, 1, ... if each rank 1..n is positive by chance."""
    ways = [1]
    for rank in range(1, n + 1):
        longer = ways + [0] * rank
        for total, count in enumerate(ways):
            longer[total + rank] += count
        ways = longer
    return tuple(count / 2**n for count in itertools.accumulate(ways))


def paired_ratio(base: Sequence[float], head: Sequence[float], minimum_effect: float = MINIMUM_EFFECT) -> Ratio:
    """Return head / base of times measured in interleaved pairs.

    From 8 pairs on there is a verdict: a difference if the interval excludes 1 and the estimate differs from 1 by at
    least ``minimum_effect``. Below, the ratio is that of the medians, and low and high are the extremes of the pairs.

    Raises:
        ValueError: no pair, unequal lengths, or a value that is not above 0.
    """
    if not base or len(base) != len(head):
        raise ValueError(f"pairs needed, got {len(base)} base and {len(head)} head values; keep only complete pairs")
    if min(*base, *head) <= 0:
        raise ValueError(f"a ratio needs values above 0, got {min(*base, *head)}; leave that pair out")
    logs = [_log_ratio(before, after) for before, after in zip(base, head, strict=True)]
    n = len(logs)
    if n < MIN_PROCESSES:
        ratio = statistics.median(head) / statistics.median(base)
        return Ratio(ratio, math.exp(min(logs)), math.exp(max(logs)), n, "n too small")
    means = pairwise_means(logs)
    center = statistics.median(means)
    low, high = _interval(means, n, VERDICT_ALPHA)
    verdict = judge(center, low, high, minimum_effect)
    return Ratio(math.exp(center), math.exp(low), math.exp(high), n, verdict, _p(means, n))


def _log_ratio(before: float, after: float) -> float:
    """Return the log-ratio so that swapped sides give exactly its negative; with rounding 7/3 and 3/7 do not cancel."""
    return math.log(after / before) if after >= before else -math.log(before / after)


def judge(center: float, low: float, high: float, minimum_effect: float = MINIMUM_EFFECT) -> Verdict:
    """Return the verdict on log-ratios: the interval must exclude 0 and the centre must be large enough."""
    if abs(center) < math.log1p(minimum_effect) or low <= 0 <= high:
        return "same"
    return "slower" if center > 0 else "faster"

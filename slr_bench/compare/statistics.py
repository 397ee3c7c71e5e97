"""Medians, intervals and verdicts over processes; the process is the sampling unit.

Below `MIN_PROCESSES` there is min-max and no verdict: a percentile bootstrap over three processes raises a false alarm
in 27 % of comparisons of equal things.

Intervals are the inversion of exact tests, so they need no table of quantiles and no normal distribution: of a median
the sign test (order statistics), of paired log-ratios the sign-flip permutation test of their ranks (Wilcoxon 1945),
whose interval and estimate are order statistics and median of the pairwise means (Hodges and Lehmann, "Estimates of
location based on rank tests", 1963). Which of a pair is the head is a coin's toss if both are equal: the test then
assumes nothing. Why ranks and not means: docs/decisions/comparing.md.
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
"""Processes (pairs) from which an interval and a verdict are given."""
MINIMUM_EFFECT: Final = 0.01
"""Relative difference below which a time is called the same however sure its sign is."""
ALPHA: Final = 0.05
"""Two-sided error of an interval that is only shown."""
VERDICT_ALPHA: Final = 0.01
"""Two-sided error of a verdict on a ratio, and of the interval beside it: at 8 pairs all must agree in sign."""

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
    """Middle of the pairs' ratios: the Hodges-Lehmann estimate from `MIN_PROCESSES` pairs on, below that of medians."""
    low: float
    high: float
    """Limits at 1 - `VERDICT_ALPHA`; min and max of the pairs' ratios below `MIN_PROCESSES`."""
    n: int
    verdict: Verdict
    p: float | None = None
    """Of the signed-rank test; None below `MIN_PROCESSES`."""


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


def center_interval(values: Sequence[float], alpha: float = ALPHA) -> tuple[float, float]:
    """Limits that hold the centre of symmetry with at least 1 - ``alpha``; min-max where the values are too few for it.

    They are all centres that the two-sided signed-rank test does not reject.
    """
    return _interval(pairwise_means(values), len(values), alpha)


def signed_rank_p(values: Sequence[float]) -> float:
    """Two-sided p of the signed-rank test that the centre is 0; at least 2 / 2^n.

    It is ``alpha`` or less exactly where `center_interval` at ``alpha`` excludes 0 (2 / 2^n <= ``alpha`` given): both
    count the same pairwise means. Zeros and ties count against a difference.
    """
    return _p(pairwise_means(values), len(values))


def _interval(means: Sequence[float], n: int, alpha: float) -> tuple[float, float]:
    cut = max(0, bisect.bisect_right(signed_rank_tails(n), alpha / 2) - 1)
    return means[cut], means[-1 - cut]


def _p(means: Sequence[float], n: int) -> float:
    below, above = bisect.bisect_right(means, 0.0), len(means) - bisect.bisect_left(means, 0.0)
    return min(1.0, 2 * signed_rank_tails(n)[min(below, above)])


def pairwise_means(values: Sequence[float]) -> list[float]:
    """Sorted means of all n (n + 1) / 2 pairs of values, each with itself included."""
    pairs = itertools.combinations_with_replacement(values, 2)
    return sorted((one + other) / 2 for one, other in pairs)


@functools.cache
def signed_rank_tails(n: int) -> tuple[float, ...]:
    """P(rank sum of the positive values <= t), t = 0, 1, ...: each of the ranks 1..n is positive by a coin's toss."""
    ways = [1]
    for rank in range(1, n + 1):
        longer = ways + [0] * rank
        for total, count in enumerate(ways):
            longer[total + rank] += count
        ways = longer
    return tuple(count / 2**n for count in itertools.accumulate(ways))


def paired_ratio(base: Sequence[float], head: Sequence[float], minimum_effect: float = MINIMUM_EFFECT) -> Ratio:
    """head / base of times measured in interleaved pairs. A verdict from 8 pairs on: the interval excludes 1 and the
    middle differs from 1 by ``minimum_effect`` at least; below, the ratio is that of the medians (always between the
    extremes of the pairs' ratios), and low and high are those extremes.

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
    """Exactly the negative of the swapped sides'. Rounded otherwise, 7/3 and 3/7 do not cancel: ties break by side."""
    return math.log(after / before) if after >= before else -math.log(before / after)


def judge(center: float, low: float, high: float, minimum_effect: float = MINIMUM_EFFECT) -> Verdict:
    """Verdict on log-ratios with interval ``low`` to ``high``: it must exclude 0, the centre be large enough."""
    if abs(center) < math.log1p(minimum_effect) or low <= 0 <= high:
        return "same"
    return "slower" if center > 0 else "faster"

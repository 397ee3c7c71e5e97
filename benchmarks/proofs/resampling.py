"""Comparisons resampled from real runs, and how often they are right, with exact binomial bounds.

Processes that ran one after the other are a pair, as an interleaved measurement makes them. A comparison draws whole
pairs, and a coin decides which of a pair is the base. Drawing is repeated, so the bounds say how exactly the rate *over
these pairs* is known; how it is on another machine or day, only other runs can say.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from slr_bench.compare.statistics import Ratio, paired_ratio
from slr_bench.run.schedule import first_side

Pair = tuple[float, float]
"""Seconds of two processes that ran one after the other."""


@dataclass(frozen=True)
class Rate:
    """A rate, with its Clopper-Pearson interval of 95 %."""

    count: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share."""
        return self.count / self.n


def rate(count: int, n: int, alpha: float = 0.05) -> Rate:
    """Exact binomial bounds (Clopper and Pearson 1934): each leaves ``alpha`` / 2 of the probability beyond it."""
    low = 0.0 if count == 0 else _solve(lambda p: _at_most(n - count, n, 1 - p) - alpha / 2)
    high = 1.0 if count == n else 1 - _solve(lambda q: _at_most(count, n, 1 - q) - alpha / 2)
    return Rate(count, n, low, high)


def _at_most(count: int, n: int, p: float) -> float:
    """P(Binomial(n, p) <= count)."""
    if p <= 0 or p >= 1:
        return 1.0 if p <= 0 or count >= n else 0.0
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
        for k in range(count + 1)
    ]
    return min(1.0, math.fsum(math.exp(log) for log in logs))


def _solve(rising: Callable[[float], float]) -> float:
    """Return the zero of a function that rises over (0, 1)."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def adjacent_pairs(times_s: Sequence[float]) -> list[Pair]:
    """Runs 0 and 1, 2 and 3, ...: no run is in two pairs."""
    return list(zip(times_s[::2], times_s[1::2], strict=False))


def resampled(pairs: Sequence[Pair], n: int, count: int, factor: float = 1.0, seed: int = 0) -> Iterator[Ratio]:
    """``count`` comparisons of ``n`` different pairs each; the head's real times are multiplied by ``factor``.

    Raises:
        ValueError: fewer than ``n`` pairs.
    """
    if len(pairs) < n:
        raise ValueError(f"a comparison of {n} pairs cannot be drawn from {len(pairs)}; collect {2 * n} runs or more")
    generator = random.Random(seed)
    for _ in range(count):
        yield _compared([_turned(pair, generator.random() < 0.5) for pair in generator.sample(pairs, n)], factor)


def in_order(pairs: Sequence[Pair], n: int, count: int, factor: float = 1.0) -> Iterator[Ratio]:
    """Yield ``count`` comparisons as a run makes them: ``n`` pairs in a row, in the order in which they ran.

    The side that goes first in a pair is drawn by the coin of the runner, for another grid each time.
    """
    for number in range(count):
        start = number % (len(pairs) - n + 1)
        turned = [first_side(f"grid {number}", "cell", repeat) == "b" for repeat in range(n)]
        yield _compared([_turned(*each) for each in zip(pairs[start : start + n], turned, strict=True)], factor)


def taking_turns(pairs: Sequence[Pair], n: int, factor: float = 1.0) -> Iterator[Ratio]:
    """Yield every comparison of ``n`` pairs in a row that alternating order (ABBA) could have made."""
    for start in range(len(pairs) - n + 1):
        for first in (0, 1):
            window = [_turned(pair, (place + first) % 2 == 1) for place, pair in enumerate(pairs[start : start + n])]
            yield _compared(window, factor)


def _turned(pair: Pair, is_turned: bool) -> Pair:
    return (pair[1], pair[0]) if is_turned else pair


def _compared(pairs: Sequence[Pair], factor: float) -> Ratio:
    return paired_ratio([base for base, _ in pairs], [factor * head for _, head in pairs])


def alarms(found: Sequence[Ratio]) -> Rate:
    """Comparisons with a verdict of any difference."""
    return rate(sum(ratio.verdict in ("faster", "slower") for ratio in found), len(found))


def detections(found: Sequence[Ratio]) -> Rate:
    """Comparisons that called the head slower."""
    return rate(sum(ratio.verdict == "slower" for ratio in found), len(found))


def with_rule(found: Sequence[Ratio], alpha: float, minimum_effect: float) -> Rate:
    """Alarms under another rule than the library's: ``p <= alpha`` and a middle at least that far from 1."""
    edge = math.log1p(minimum_effect)
    count = sum(ratio.p is not None and ratio.p <= alpha and abs(math.log(ratio.ratio)) >= edge for ratio in found)
    return rate(count, len(found))


def spread_of(pairs: Sequence[Pair]) -> float:
    """Standard deviation of the pairs' log-ratios."""
    logs = [math.log(second / first) for first, second in pairs]
    return math.sqrt(math.fsum(log * log for log in logs) / len(logs))

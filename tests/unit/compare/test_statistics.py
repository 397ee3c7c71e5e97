"""Statistics against closed forms and naive enumeration."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slr_bench.compare.statistics import (
    ALPHA,
    MIN_PROCESSES,
    MINIMUM_EFFECT,
    VERDICT_ALPHA,
    center_interval,
    paired_ratio,
    signed_rank_p,
    signed_rank_tails,
    summarize,
)

finite = st.floats(min_value=-100, max_value=100, allow_nan=False).map(lambda value: round(value, 3))
times = st.floats(min_value=0.01, max_value=100, allow_nan=False)
pairs = st.lists(st.tuples(times, times), min_size=8, max_size=12)


def brute_force_p(values, center=0.0):
    """Two-sided p of the rank sum, every sign vector tried; nothing shared with the code under test."""
    moved = [value - center for value in values]
    ranks = {size: rank for rank, size in enumerate(sorted(abs(value) for value in moved), start=1)}
    ranked = [ranks[abs(value)] for value in moved]
    seen = sum(rank for rank, value in zip(ranked, moved, strict=True) if value > 0)
    sums = [
        sum(rank for rank, is_positive in zip(ranked, signs, strict=True) if is_positive)
        for signs in itertools.product((True, False), repeat=len(moved))
    ]
    upper = sum(total >= seen for total in sums) / len(sums)
    lower = sum(total <= seen for total in sums) / len(sums)
    return min(1.0, 2 * min(upper, lower))


def distinct_sizes(values):
    return len({abs(value) for value in values} | {0.0}) == len(values) + 1


@settings(max_examples=40, deadline=None)
@given(st.lists(finite, min_size=1, max_size=9).filter(distinct_sizes))
def test_p_equals_brute_force(values):
    assert signed_rank_p(values) == pytest.approx(brute_force_p(values), abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.lists(finite, min_size=8, max_size=9, unique=True), st.sampled_from([ALPHA, VERDICT_ALPHA]))
def test_interval_contains_exactly_the_values_that_the_test_accepts(values, alpha):
    low, high = center_interval(values, alpha)
    nudge = 1e-6  # below the distance of two pairwise means of values with three decimals
    for inside in (low + nudge, high - nudge):
        if low < high:
            assert brute_force_p(values, inside) > alpha
    for outside in (low - nudge, high + nudge):
        assert brute_force_p(values, outside) <= alpha


@settings(max_examples=60, deadline=None)
@given(st.lists(finite, min_size=8, max_size=14), st.sampled_from([ALPHA, VERDICT_ALPHA]))
def test_p_and_interval_agree_with_ties_and_zeros(values, alpha):
    low, high = center_interval(values, alpha)
    assert (signed_rank_p(values) <= alpha) == (not low <= 0 <= high)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_verdict_and_interval_agree(found_pairs):
    base, head = ([pair[side] for pair in found_pairs] for side in (0, 1))
    found = paired_ratio(base, head)
    excludes_one = not found.low <= 1 <= found.high
    assert found.low <= found.ratio <= found.high
    assert excludes_one == (found.p <= VERDICT_ALPHA)
    assert (found.verdict != "same") == (excludes_one and abs(math.log(found.ratio)) >= math.log1p(MINIMUM_EFFECT))
    assert found.verdict != ("slower" if found.ratio < 1 else "faster")


def test_pairs_that_cancel_have_no_difference_in_either_order():
    """Quotients whose logarithms are not each other's negative once rounded: a tie, whichever side is the base."""
    base = [1.0, 7.0, 1.0, 10.0, 1.0, 14.0, 1.0, 18.0]
    head = [7.0, 1.0, 10.0, 1.0, 14.0, 1.0, 18.0, 1.0]
    assert all(math.log(after / before) != -math.log(before / after) for before, after in zip(base, head, strict=True))
    found, swapped = paired_ratio(base, head), paired_ratio(head, base)
    assert found.ratio == swapped.ratio == 1
    assert found.p == swapped.p == 1


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_swapping_the_sides_inverts_the_ratio(found_pairs):
    base, head = ([pair[side] for pair in found_pairs] for side in (0, 1))
    found, swapped = paired_ratio(base, head), paired_ratio(head, base)
    assert (1 / swapped.ratio, 1 / swapped.high, 1 / swapped.low) == pytest.approx((found.ratio, found.low, found.high))
    assert swapped.p == found.p
    assert swapped.verdict == {"faster": "slower", "slower": "faster", "same": "same"}[found.verdict]


@settings(max_examples=60, deadline=None)
@given(pairs, st.integers(min_value=-8, max_value=8))
def test_the_unit_of_time_does_not_change_a_ratio(found_pairs, power):
    base, head = ([pair[side] for pair in found_pairs] for side in (0, 1))
    scale = 2.0**power  # exact in binary: the quotients are the same numbers
    assert paired_ratio([scale * time for time in base], [scale * time for time in head]) == paired_ratio(base, head)


@settings(max_examples=40, deadline=None)
@given(st.lists(finite, min_size=8, max_size=10), finite)
def test_interval_moves_and_mirrors_with_the_values(values, shift):
    low, high = center_interval(values)
    assert low - 1e-9 <= statistics.fmean(values) <= high + 1e-9
    assert center_interval([value + shift for value in values]) == pytest.approx((low + shift, high + shift), abs=1e-6)
    assert center_interval([-value for value in values]) == pytest.approx((-high, -low), abs=1e-9)


def test_interval_of_normal_values_is_near_the_t_interval():
    generator = random.Random(4)
    values = [generator.gauss(0.1, 1.0) for _ in range(30)]
    low, high = center_interval(values)
    half = 2.045 * statistics.stdev(values) / math.sqrt(30)  # t quantile 0.975 of 29 degrees, from a printed table
    center = statistics.fmean(values)
    assert (low, high) == pytest.approx((center - half, center + half), abs=0.12 * 2 * half)


def test_critical_values_are_those_of_the_printed_table():
    """Wilcoxon's table, two-sided 0.05 and 0.01: largest rank sum that is still significant."""
    for n, five, one in ((8, 3, 0), (9, 5, 1), (10, 8, 3), (12, 13, 7), (16, 29, 19), (20, 52, 37), (25, 89, 68)):
        tails = signed_rank_tails(n)
        for alpha, critical in ((0.05, five), (0.01, one)):
            assert 2 * tails[critical] <= alpha < 2 * tails[critical + 1]


def gauss(generator):
    return generator.gauss(0, 0.1)


def heavy(generator):
    """Cauchy, cut where a float's exponent would end: hardly a mean, hardly a variance."""
    return max(-20.0, min(20.0, 0.02 * math.tan(math.pi * (generator.random() - 0.5))))


def bursts(generator):
    """Quiet but for one process in five, which takes half as long again."""
    return generator.gauss(0, 0.01) + 0.4 * (generator.random() < 0.2)


def noise_of(draw, generator, kind):
    """Log-times of 16 processes in the order run: independent, with a drift, or each like the one before."""
    own = [draw(generator) for _ in range(16)]
    if kind == "drift":
        return [value + 0.02 * place for place, value in enumerate(own)]
    if kind == "autocorrelated":
        return list(itertools.accumulate(own, lambda last, fresh: 0.8 * last + fresh))
    return own


@pytest.mark.parametrize("kind", ["independent", "drift", "autocorrelated"])
@pytest.mark.parametrize("draw", [gauss, heavy, bursts])
def test_equal_sides_raise_an_alarm_in_at_most_one_percent(draw, kind):
    generator, alarms, count = random.Random(7), 0, 1500
    for _ in range(count):
        logs = noise_of(draw, generator, kind)
        # The base goes first in every other pair.
        base = [logs[place + (place // 2 % 2)] for place in range(0, 16, 2)]
        head = [logs[place + 1 - (place // 2 % 2)] for place in range(0, 16, 2)]
        verdict = paired_ratio([math.exp(log) for log in base], [math.exp(log) for log in head]).verdict
        alarms += verdict != "same"
    # 1500 x 2 / 256 = 11.7 expected at most, standard deviation 3.4: four of them above.
    assert alarms <= 25


@pytest.mark.parametrize(
    ("factor", "verdict"), [(0.8, "faster"), (1.25, "slower"), (1.0, "same"), (1.004, "same"), (0.996, "same")]
)
def test_verdict_needs_the_minimum_effect(factor, verdict):
    base = [1.0 + 0.01 * place for place in range(8)]
    found = paired_ratio(base, [factor * value for value in base])
    assert found.verdict == verdict
    assert (found.ratio, found.low, found.high) == pytest.approx((factor,) * 3)


def test_pairing_removes_common_noise():
    drift = [1.0, 1.7, 0.6, 2.2, 0.9, 3.0, 1.2, 0.5]
    noise = [1.01, 0.99, 1.0, 1.02, 0.98, 1.01, 0.99, 1.0]
    head = [1.1 * value * wobble for value, wobble in zip(drift, noise, strict=True)]
    assert paired_ratio(drift, head).verdict == "slower"


def test_an_interval_that_contains_one_is_not_significant():
    ratios = [1.5, 0.7, 1.6, 0.8, 1.4, 0.75, 1.5, 0.9]
    found = paired_ratio([1.0] * 8, ratios)
    assert found.low < 1 < found.high
    assert found.verdict == "same"


def test_few_pairs_have_extremes_and_no_verdict():
    found = paired_ratio([1.0, 2.0, 4.0], [2.0, 5.0, 8.0])
    assert found.verdict == "n too small"
    assert (found.low, found.high, found.n) == (pytest.approx(2.0), pytest.approx(2.5), 3)
    assert found.ratio == pytest.approx(5.0 / 2.0)  # of the medians that stand beside it
    assert paired_ratio([1.0] * (MIN_PROCESSES - 1), [9.0] * (MIN_PROCESSES - 1)).verdict == "n too small"


@pytest.mark.parametrize(("base", "head"), [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([1.0], [-2.0])])
def test_impossible_pairs_are_refused(base, head):
    with pytest.raises(ValueError, match="pair"):
        paired_ratio(base, head)


@pytest.mark.parametrize("n", [8, 9, 12, 15, 16, 17, 25, 40])
def test_interval_of_the_median_is_the_narrowest_with_95_percent(n):
    found = summarize([float(value) for value in range(n)])
    cut = int(found.low)
    assert found.high == n - 1 - cut
    # P(median outside) = 2 P(Binomial(n, 1/2) <= cut): counted from the definition.
    outside = [2 * sum(math.comb(n, k) for k in range(places + 1)) / 2**n for places in (cut, cut + 1)]
    assert outside[0] <= 0.05 < outside[1]
    assert found.kind == "interval"


def test_few_values_give_min_and_max():
    found = summarize([3.0, 1.0, 2.0, 10.0])
    assert (found.median, found.low, found.high, found.n, found.kind) == (2.5, 1.0, 10.0, 4, "range")


def test_deterministic_values_that_differ_are_a_disagreement():
    assert summarize([7, 7, 7], deterministic=True).kind == "exact"
    assert summarize([7, 7, 8], deterministic=True).kind == "disagreement"
    assert summarize([7] * 20, deterministic=True).kind == "exact"


def test_an_empty_list_cannot_be_summarized():
    with pytest.raises(ValueError, match="nothing to summarize"):
        summarize([])

"""Statistics against closed forms and naive enumeration."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slr_bench.compare.statistics import MIN_PROCESSES, center_interval, paired_ratio, summarize

finite = st.floats(min_value=-100, max_value=100, allow_nan=False).map(lambda value: round(value, 3))


def sign_flip_p(values, center):
    """Two-sided sign-flip permutation p value, every sign vector tried; nothing shared with the code under test."""
    moved = [value - center for value in values]
    seen = sum(moved)
    sums = [
        sum(s * v for s, v in zip(signs, moved, strict=True)) for signs in itertools.product((1, -1), repeat=len(moved))
    ]
    upper = sum(total >= seen - 1e-9 for total in sums) / len(sums)
    lower = sum(total <= seen + 1e-9 for total in sums) / len(sums)
    return min(1.0, 2 * min(upper, lower))


@settings(max_examples=25, deadline=None)
@given(st.lists(finite, min_size=8, max_size=9, unique=True))
def test_interval_holds_exactly_what_the_permutation_test_does_not_reject(values):
    low, high = center_interval(values)
    width = max(high - low, 1e-3)
    for inside in (low + 1e-4 * width, (low + high) / 2, high - 1e-4 * width):
        assert sign_flip_p(values, inside) > 0.05
    for outside in (low - 1e-4 * width - 1e-6, high + 1e-4 * width + 1e-6):
        assert sign_flip_p(values, outside) <= 0.05


@settings(max_examples=40, deadline=None)
@given(st.lists(finite, min_size=8, max_size=10), finite)
def test_interval_moves_and_mirrors_with_the_values(values, shift):
    low, high = center_interval(values)
    assert low - 1e-9 <= statistics.fmean(values) <= high + 1e-9
    assert center_interval([value + shift for value in values]) == pytest.approx((low + shift, high + shift), abs=1e-6)
    assert center_interval([-value for value in values]) == pytest.approx((-high, -low), abs=1e-9)


def test_random_subsets_beyond_enumeration_agree_with_the_t_interval_of_normal_values():
    generator = random.Random(4)
    values = [generator.gauss(0.1, 1.0) for _ in range(30)]
    low, high = center_interval(values)
    half = 2.045 * statistics.stdev(values) / math.sqrt(30)  # t quantile 0.975 of 29 degrees, from a printed table
    center = statistics.fmean(values)
    assert (low, high) == pytest.approx((center - half, center + half), abs=0.12 * 2 * half)
    assert center_interval(values) == (low, high)


def test_false_alarms_of_equal_things_stay_near_five_percent():
    generator = random.Random(7)
    alarms = 0
    for _ in range(400):
        base = [math.exp(generator.gauss(0, 0.1)) for _ in range(8)]
        head = [math.exp(generator.gauss(0, 0.1)) for _ in range(8)]
        alarms += paired_ratio(base, head).verdict != "same"
    # 400 x 0.047 = 18.8 expected, standard deviation 4.2; a bootstrap's 12 % would be 48.
    assert 5 <= alarms <= 33


@pytest.mark.parametrize(
    ("factor", "verdict"), [(0.8, "faster"), (1.25, "slower"), (1.0, "same"), (1.004, "same"), (0.996, "same")]
)
def test_verdict_needs_the_minimum_effect(factor, verdict):
    base = [1.0 + 0.01 * place for place in range(8)]
    found = paired_ratio(base, [factor * value for value in base])
    assert found.verdict == verdict
    assert (found.ratio, found.low, found.high) == pytest.approx((factor,) * 3)


def test_pairing_removes_what_both_share():
    drift = [1.0, 1.7, 0.6, 2.2, 0.9, 3.0, 1.2, 0.5]
    noise = [1.01, 0.99, 1.0, 1.02, 0.98, 1.01, 0.99, 1.0]
    head = [1.1 * value * wobble for value, wobble in zip(drift, noise, strict=True)]
    assert paired_ratio(drift, head).verdict == "slower"


def test_an_interval_that_spans_one_is_no_verdict():
    ratios = [1.5, 0.7, 1.6, 0.8, 1.4, 0.75, 1.5, 0.9]
    found = paired_ratio([1.0] * 8, ratios)
    assert found.low < 1 < found.high
    assert found.verdict == "same"


def test_few_pairs_get_extremes_and_no_verdict():
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


def test_deterministic_values_agree_or_are_called_out():
    assert summarize([7, 7, 7], deterministic=True).kind == "exact"
    assert summarize([7, 7, 8], deterministic=True).kind == "disagreement"
    assert summarize([7] * 20, deterministic=True).kind == "exact"


def test_nothing_cannot_be_summarized():
    with pytest.raises(ValueError, match="nothing to summarize"):
        summarize([])

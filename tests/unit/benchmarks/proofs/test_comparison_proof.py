"""The proof of the comparison on the step times that were really measured: bounds, not luck (all draws are seeded)."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from pathlib import Path

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.proofs.proof_results import ALARM_LIMIT, DETECTION_LIMIT, SLOWDOWN, Collected, results
from benchmarks.proofs.proof_text import page
from benchmarks.proofs.resampling import adjacent_pairs, alarms, detections, in_order, rate, resampled, taking_turns
from slr_bench.compare.statistics import paired_ratio

CURATED = Path(__file__).resolve().parents[4] / "reports" / "comparison_cpu_2026-11-24"
TABLES = [CURATED / "step_times.csv", CURATED / "busy" / "step_times.csv"]


@pytest.fixture(params=TABLES, ids=["quiet", "busy"])
def collected(request):
    return Collected.from_table(pandas.read_csv(request.param))


def test_equal_processes_raise_an_alarm_in_one_percent_at_most(collected):
    assert len(collected.plain) >= 100
    found = alarms(list(resampled(collected.pairs(), 8, 20_000)))
    assert found.high <= ALARM_LIMIT


def test_in_the_order_run_the_coin_keeps_the_alarms_down_where_taking_turns_does_not(collected):
    """Neighbours in time are alike on both machines: ABBA alarms two to five times too often."""
    pairs = collected.pairs()
    windows = [pairs[start : start + 8] for start in range(0, len(pairs) - 8, 5)]
    assert sum(map(alarmed_of_all_orders, windows)) <= len(windows)  # of 128 each
    assert alarms(list(in_order(pairs, 8, 3_000))).low <= 1 / 128
    assert alarms(list(taking_turns(pairs, 8))).low > ALARM_LIMIT


def alarmed_of_all_orders(slots: Sequence[tuple[float, float]]) -> int:
    """Count how many of the 128 equally likely orders of 8 pairs give a verdict.

    The first pair does not turn, and the times keep their places.
    """
    orders = ((False, *turned) for turned in itertools.product((False, True), repeat=7))
    sides = ([pair[::-1] if turned else pair for pair, turned in zip(slots, order, strict=True)] for order in orders)
    return sum(paired_ratio(*zip(*pairs, strict=True)).verdict in ("faster", "slower") for pairs in sides)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)), min_size=8, max_size=8))
def test_whatever_the_times_were_one_of_128_orders_alarms_at_most(slots):
    assert alarmed_of_all_orders(slots) <= 1


def test_a_machine_that_swings_in_time_with_the_pairs_fools_turns_and_not_the_coin():
    """Slow for two processes, quick for two, out of step with the pairs: ABBA gives one side all the slow places."""
    generator = random.Random(7)
    level, times = 0.0, []
    for place in range(320):
        level = 0.98 * level + generator.gauss(0, 0.02)
        times.append(math.exp(level + 0.1 * ((place + 1) // 2 % 2)))
    pairs = adjacent_pairs(times)
    assert alarms(list(taking_turns(pairs, 8))).low > 0.3
    assert alarms(list(in_order(pairs, 8, 3_000))).low <= 1 / 128


def test_detection_grows_with_pairs_and_reaches_its_number_in_the_end(collected):
    """Neither collection is calm enough for 95 % from 8 pairs; how many it takes is measured, not promised."""
    few, many = (detections(list(resampled(collected.pairs(), n, 300, SLOWDOWN))) for n in (8, 64))
    assert few.high < many.low
    assert many.low >= DETECTION_LIMIT


def test_calm_pairs_find_fifteen_percent_from_eight():
    """The target requires a machine whose pairs scatter by at most 5 %."""
    generator = random.Random(5)
    pairs = [(1.0, math.exp(generator.gauss(0, 0.05))) for _ in range(160)]
    assert detections(list(resampled(pairs, 8, 2000, SLOWDOWN))).low >= DETECTION_LIMIT


def test_bytes_are_the_same_in_every_process_and_a_ballast_is_always_found(collected):
    found = results(collected, count=200, end_to_end=50)
    whole = found["end_to_end"]
    assert len(whole["peaks"]) == 1
    assert whole["equal"]["peak_tensor_bytes"]["count"] == 0
    sizes = sorted(collected.ballast)
    assert sizes == [1, 27055]
    for size in sizes:
        row = whole[f"ballast_{size}"]
        assert row["peak_tensor_bytes"]["count"] == 50
        assert row["bytes_ratio"] == 1 + size / whole["peaks"][0]
    assert "| target | result" in page(found, {"cpu": "a processor"})


def test_comparisons_in_the_order_run_use_neighbours_and_take_turns():
    found = list(taking_turns(adjacent_pairs([1.0, 2.0] * 9), 8))
    assert len(found) == 4  # two windows, either side first
    assert {round(ratio.ratio, 6) for ratio in found} == {1.0}  # being second costs double, and cancels
    assert adjacent_pairs([1, 2, 3, 4, 5]) == [(1, 2), (3, 4)]


def test_too_few_pairs_are_refused():
    with pytest.raises(ValueError, match="collect 16 runs or more"):
        next(resampled([(1.0, 1.0)] * 7, 8, 1))


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [(0, 10, 0.0, 0.308497), (10, 10, 0.691503, 1.0), (5, 10, 0.187086, 0.812914), (1, 100, 0.000253, 0.054459)],
)
def test_bounds_are_those_of_the_printed_tables(count, n, low, high):
    found = rate(count, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5)


def test_bounds_solve_their_definition():
    found = rate(7, 40)
    above = sum(math.comb(40, k) * found.low**k * (1 - found.low) ** (40 - k) for k in range(7, 41))
    below = sum(math.comb(40, k) * found.high**k * (1 - found.high) ** (40 - k) for k in range(8))
    assert (above, below) == pytest.approx((0.025, 0.025))

"""Compares the choice within a budget with every possible choice."""

import re
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.layers.recompute_plan import UnitCost, least_bytes, within_budget
from slr_bench.errors import UnsupportedSettingError
from slr_bench.units import MIB

SIZES = st.integers(0, 12)


@st.composite
def units(draw):
    inner, output, temporary, buffers, flops = (draw(SIZES) for _ in range(5))
    forward = inner + output + draw(SIZES)
    return UnitCost(inner, output, forward, inner + 2 * output + temporary, buffers, flops)


chains = st.lists(units(), min_size=1, max_size=7)


def timeline(costs, choice):
    """Return the bytes alive at each moment of a micro-batch: forward, then backward from the last unit."""
    kept, moments = 0, []
    starts = []
    for cost, again in zip(costs, choice, strict=True):
        starts.append(kept)
        moments.append(kept + cost.forward_peak_bytes)  # recomputed or not: at most this
        kept += cost.output_bytes + (0 if again else cost.inner_bytes)
    for cost, again, start in reversed(list(zip(costs, choice, starts, strict=True))):
        copies = cost.buffer_bytes if again else 0
        if again:
            moments.append(start + cost.output_bytes + cost.forward_peak_bytes + copies)
        moments.append(start + cost.backward_peak_bytes + copies)
    return moments


def every_plan(costs):
    for choice in product((False, True), repeat=len(costs)):
        flops = sum(cost.flops for cost, again in zip(costs, choice, strict=True) if again)
        yield flops, max(timeline(costs, choice)), choice


@settings(max_examples=80, deadline=None)
@given(chains, st.integers(0, 120))
def test_plan_has_the_least_work_that_fits_and_then_the_lowest_peak(costs, budget):
    fitting = [(flops, peak) for flops, peak, _ in every_plan(costs) if peak <= budget]
    if not fitting:
        with pytest.raises(UnsupportedSettingError):
            within_budget(costs, budget)
        return
    plan = within_budget(costs, budget)
    assert (plan.flops, max(timeline(costs, plan.recompute))) == min(fitting)
    assert plan.kept_bytes <= budget


@settings(max_examples=25, deadline=None)
@given(chains)
def test_smaller_budget_never_has_a_higher_peak(costs):
    largest = max(peak for _, peak, _ in every_plan(costs))
    least = min(peak for _, peak, _ in every_plan(costs))
    peaks = [max(timeline(costs, within_budget(costs, budget).recompute)) for budget in range(least, largest + 1)]
    assert peaks == sorted(peaks)


@settings(max_examples=25, deadline=None)
@given(chains)
def test_large_budget_recomputes_nothing(costs):
    """This holds for any size, although 2 ** 63 and above cannot be the length of a range."""
    for budget in (10**6, 2**63 - 1, 2**63, 10**40):
        plan = within_budget(costs, budget)
        assert plan.flops == 0
        assert not any(again for cost, again in zip(costs, plan.recompute, strict=True) if cost.flops)


@settings(max_examples=25, deadline=None)
@given(chains)
def test_impossible_budget_names_the_smallest_possible(costs):
    costs = [UnitCost(*(MIB * size for size in cost[:-1]), cost.flops) for cost in costs]
    least = min(peak for _, peak, _ in every_plan(costs)) // MIB
    if least:
        with pytest.raises(UnsupportedSettingError, match=re.escape(f"budget:{least - 1} is below")) as raised:
            within_budget(costs, (least - 1) * MIB)
        assert f"use budget:{least}, lowest, or" in str(raised.value)
    within_budget(costs, least * MIB)
    assert least_bytes(costs) == least * MIB

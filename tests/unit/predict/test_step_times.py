"""Estimated step times: rates from a data sheet, and rates fitted to measured steps."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from step_profiles import step_profile

from slr_bench.predict.rates import Rates, calibrate_rates, data_sheet_rates
from slr_bench.predict.trace_pool import StepWork


def step(fp32: float, half: float, touched: float, operators: int) -> StepWork:
    return StepWork(fp32, 0, half, touched, operators)


SHEET = data_sheet_rates(10, 40, 400, "a card", has_tf32=True)


def test_step_time_is_the_sum_of_its_parts():
    # 4.5 TFLOP/s of 10, 18 of 40, 300 GB/s of 400, 6 us an operator
    assert SHEET.step_seconds(step(4.5e12, 18e12, 300e9, 1000)) == pytest.approx(1 + 1 + 1 + 0.006)


def test_half_precision_is_recognised_by_the_type_of_the_result():
    flops = {"float32": 1, "float16": 2, "bfloat16": 5}
    work = step_profile(flops_by_dtype=flops, touched_bytes_per_step=3, operators=4).work
    assert work == (1, 0, 7, 3, 4)


@pytest.mark.parametrize(("has_tf32", "rate"), [(True, 20e12), (False, 10e12)])
def test_tf32_runs_at_half_the_rate_of_half_precision_if_the_card_has_it(has_tf32, rate):
    rates = data_sheet_rates(10, 40, 400, "a card", has_tf32)
    one = step_profile(flops_by_dtype={"tf32": 9e12}).work
    assert rates.step_seconds(one) == pytest.approx(9e12 / (0.45 * rate))


@given(st.floats(0.01, 100))
def test_one_measured_step_scales_every_rate_alike(factor):
    one = step(1e12, 2e12, 1e11, 5000)
    fitted = calibrate_rates(SHEET, [one], [SHEET.step_seconds(one) * factor])
    assert fitted.step_seconds(step(3e12, 0, 1e10, 10)) == pytest.approx(
        SHEET.step_seconds(step(3e12, 0, 1e10, 10)) * factor
    )


@given(st.lists(st.floats(0.3, 3), min_size=5, max_size=5))
def test_several_measured_steps_bring_the_estimate_nearer_to_the_truth(factors):
    rates = (SHEET.fp32_flop_s, SHEET.tf32_flop_s, SHEET.half_flop_s, SHEET.byte_s, SHEET.operator_s)
    truth = Rates(*(rate * factor for rate, factor in zip(rates, factors, strict=True)), "truth")
    steps = [step(4e12, 0, 1e11, 2000), step(0, 9e12, 2e11, 9000), step(1e12, 1e12, 4e11, 30000)]
    times = [truth.step_seconds(one) for one in steps]
    fitted = calibrate_rates(SHEET, steps, times)

    def error(rates_: Rates, scale: float = 1.0) -> float:
        return sum((rates_.step_seconds(one) * scale / time - 1) ** 2 for one, time in zip(steps, times, strict=True))

    ratios = [time / SHEET.step_seconds(one) for one, time in zip(steps, times, strict=True)]
    assert error(fitted) <= error(SHEET, math.prod(ratios) ** (1 / 3)) + 1e-9
    assert min(fitted.fp32_flop_s, fitted.half_flop_s, fitted.byte_s, fitted.operator_s) >= 0


def test_rates_are_not_calibrated_without_measured_steps():
    with pytest.raises(ValueError, match="one positive time for each"):
        calibrate_rates(SHEET, [], [])
    with pytest.raises(ValueError, match="one positive time for each"):
        calibrate_rates(SHEET, [step(1, 1, 1, 1)], [0.0])

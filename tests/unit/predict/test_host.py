"""A step's high-water mark on the CPU, worked by hand."""

from __future__ import annotations

import pytest

from slr_bench.predict.device import Estimate
from slr_bench.predict.host import START_BYTES, predicted_host
from slr_bench.trace.request_kinds import ALLOCATE, FREE, TRANSIENT
from slr_bench.units import MIB


def foreseen(tensors, workspace=0):
    """Tensors of 10 MiB, and a workspace beside them."""
    numbers = range(tensors // 10)
    return {
        "peak_tensor_bytes": tensors * MIB,
        "requests": [
            *([ALLOCATE, number, 10 * MIB] for number in numbers),
            [TRANSIENT, workspace * MIB, 2 * workspace * MIB],
            *([FREE, number, 0] for number in numbers),
        ],
        "floor_bytes": MIB,
        "source": "cpu-fake",
        "by_category": {},
        "by_module": [],
    }


def test_tensors_copies_and_twice_the_largest_add_up_over_a_base():
    small, large = predicted_host(foreseen(1000)), predicted_host(foreseen(1000, workspace=200))
    assert large.rss_over_start.value - small.rss_over_start.value == 200 * MIB
    assert small.rss_over_start.value == (1000 + 2 * 10 + 100) * MIB


@pytest.mark.parametrize(("tensors", "spread"), [(100, 100), (880, 100), (1880, 200)])
def test_the_interval_is_a_tenth_and_at_least_100_mib(tensors, spread):
    found = predicted_host(foreseen(tensors)).rss_over_start
    assert found.high - found.value == spread * MIB
    assert found.low == max(tensors * MIB, found.value - spread * MIB)  # never below the tensors


def test_it_fits_by_the_upper_end_and_not_by_the_likely_value_beside_the_process_itself():
    whole = predicted_host(foreseen(880)).rss_over_start
    capacities = [START_BYTES + size for size in (whole.high, whole.high - 1, whole.value, whole.value - 1)]
    fits = [predicted_host(foreseen(880), capacity).fits for capacity in capacities]
    assert fits == [True, None, None, False]
    assert predicted_host(foreseen(880)).fits is None


def test_the_json_object_is_that_of_a_gpu_with_nulls():
    found = predicted_host(foreseen(880), 2000 * MIB).as_json()
    exact = 880 * MIB
    assert found["requested_bytes"] == Estimate(exact, exact, exact).as_json()
    assert (found["allocated_bytes"], found["reserved_bytes"], found["nvml_bytes"]) == (None, None, None)
    assert (found["device"], found["fits"], found["capacity_bytes"]) == ("cpu", True, 2000 * MIB)
    assert found["rss_over_start_bytes"].keys() == {"value", "low", "high"}

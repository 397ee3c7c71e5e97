"""A step's high-water mark on the CPU, worked by hand."""

from __future__ import annotations

import pytest

from slr_bench.predict.device import Estimate
from slr_bench.predict.host import START_BYTES, predicted_host
from slr_bench.predict.peak import ALLOCATE, FREE, TRANSIENT
from slr_bench.units import MIB


def foreseen(tensors, workspace=0, loader=0):
    """One tensor, a workspace beside it, clips in the loader."""
    return {
        "peak_tensor_bytes": tensors * MIB,
        "requests": [
            [ALLOCATE, 0, tensors * MIB],
            [TRANSIENT, workspace * MIB, 2 * workspace * MIB],
            [FREE, 0, 0],
        ],
        "loader_bytes": loader * MIB,
        "floor_bytes": MIB,
        "source": "cpu-fake",
        "by_category": {},
        "by_module": [],
    }


def test_tensors_copies_and_the_reading_of_clips_add_up_over_a_base():
    small, large = predicted_host(foreseen(1000)), predicted_host(foreseen(1000, workspace=200, loader=3))
    assert large.rss_over_start.value - small.rss_over_start.value == 230 * MIB
    assert small.rss_over_start.value - 1000 * MIB == 100 * MIB


@pytest.mark.parametrize(("tensors", "spread"), [(100, 100), (900, 100), (1900, 200)])
def test_the_interval_is_a_tenth_and_at_least_100_mib(tensors, spread):
    found = predicted_host(foreseen(tensors)).rss_over_start
    assert found.high - found.value == spread * MIB
    assert found.low == max(tensors * MIB, found.value - spread * MIB)  # never below the tensors


def test_it_fits_by_the_upper_end_and_not_by_the_likely_value_beside_the_process_itself():
    whole = predicted_host(foreseen(930)).rss_over_start
    capacities = [START_BYTES + size for size in (whole.high, whole.high - 1, whole.value, whole.value - 1)]
    fits = [predicted_host(foreseen(930), capacity).fits for capacity in capacities]
    assert fits == [True, None, None, False]
    assert predicted_host(foreseen(930)).fits is None


def test_the_json_object_is_that_of_a_gpu_with_nulls():
    found = predicted_host(foreseen(930), 2000 * MIB).as_json()
    exact = 930 * MIB
    assert found["requested_bytes"] == Estimate(exact, exact, exact).as_json()
    assert (found["allocated_bytes"], found["reserved_bytes"], found["nvml_bytes"]) == (None, None, None)
    assert (found["device"], found["fits"], found["capacity_bytes"]) == ("cpu", True, 2000 * MIB)
    assert found["rss_over_start_bytes"].keys() == {"value", "low", "high"}

"""Observations of the GPU by the child that measures."""

from types import SimpleNamespace

import pytest

from slr_bench.execute.job import GpuFacts
from slr_bench.worker.measure import GpuWatch


def test_all_observations_of_the_gpu_are_kept():
    throttle, others = iter([(), None, ("hardware slowdown",), ()]), iter([(), (41, 42), None, ()])
    watch = GpuWatch(SimpleNamespace(throttle_reasons=throttle.__next__, other_pids=others.__next__))
    for _ in range(4):
        watch.look()
    assert watch.facts() == GpuFacts(("hardware slowdown",), 2)


@pytest.mark.parametrize("nvml", [None, SimpleNamespace()])
def test_without_a_gpu_or_its_readings_nothing_is_observed(nvml):
    watch = GpuWatch(nvml)
    watch.look()
    assert watch.facts() == GpuFacts()

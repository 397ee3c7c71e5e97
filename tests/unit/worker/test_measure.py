"""Observations of the GPU, and totals per step, by the child that measures."""

from types import SimpleNamespace

import pytest
import torch

from slr_bench.execute.job import GpuFacts
from slr_bench.record import Metric
from slr_bench.worker.measure import GpuWatch, _Meters


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


@pytest.mark.parametrize(
    ("device", "kind", "expected"), [("cpu", "step", 4.0), ("cuda", "step", 3.0), ("cpu", "whole", 12.0)]
)
def test_totals_are_divided_by_the_steps_that_ran(device, kind, expected):
    """Three timed steps; a GPU runs one more, for its phases."""
    meters = SimpleNamespace(_context=SimpleNamespace(device=torch.device(device)), _step_times_s=[0.1, 0.1, 0.1])
    total = Metric(value=12.0, unit="J", source="a counter", quality="measured")
    absent = Metric.unavailable("J", "a counter", "there is none")
    found = _Meters._per_step(meters, {"total": total, "absent": absent}, kind)
    assert found["total"].value == expected
    assert found["absent"] == absent

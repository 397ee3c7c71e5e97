"""The metrics that the executor's monitor gives a cell, with clocks and readings made by hand."""

from dataclasses import replace

import pytest
from fake_executor import STILL

from slr_bench.execute.job import Ending, JobResult
from slr_bench.execute.machine import JobMonitor
from slr_bench.record import Outcome
from slr_bench.run.cell_runner import machine_metrics


class World:
    """A CPU clock that stands still unless moved, and a PSS that is what it is set to; a reading costs 5 ms of CPU."""

    def __init__(self):
        self.cpu_s, self.pss_bytes, self.reads = 1.0, 10, 0
        self.monitor = JobMonitor(replace(STILL, own_cpu_s=lambda: self.cpu_s, pss_bytes=self.read_pss))

    def read_pss(self, pid):
        self.cpu_s += 0.005
        self.reads += 1
        return self.pss_bytes

    def metrics(self, work_s, duration_s):
        result = JobResult(Outcome.OK, None, {}, work_s)
        return machine_metrics(Ending(result, None, 0, False, duration_s, machine=self.monitor.readings()))


@pytest.fixture
def world():
    return World()


def test_readings_keep_the_largest_pss_and_leave_its_cost_out(world):
    for pss_bytes in (10, 70, 30):
        world.pss_bytes = pss_bytes
        world.monitor.on_tick(1)
    world.cpu_s += 0.02
    values = {name: metric.value for name, metric in world.metrics(work_s=9.5, duration_s=10).items()}
    assert values == {
        "peak_pss_bytes": 70,
        "harness_s": pytest.approx(0.5),
        "parent_cpu_ratio": pytest.approx(0.002),
    }


def test_pss_is_not_read_while_a_step_is_timed_and_once_as_the_trace_begins(world):
    world.monitor.on_phase("step 1/2", 1)
    world.monitor.on_tick(1)
    assert world.reads == 0
    world.monitor.on_phase("trace", 1)
    assert world.reads == 1


def test_a_cell_whose_pss_was_never_readable_says_so(world):
    world.pss_bytes = None
    world.monitor.on_tick(1)
    metrics = world.metrics(work_s=2.0, duration_s=1.0)
    reading = metrics["peak_pss_bytes"]
    assert (reading.value, reading.reason) == (None, "no reading succeeded while the cell ran")
    assert metrics["harness_s"].value == 0


def test_a_job_that_is_not_monitored_costs_no_reading_but_its_oom_kills(world):
    monitor = JobMonitor(replace(STILL, pss_bytes=world.read_pss, oom_kills=iter([None, None]).__next__), False)
    monitor.on_phase("trace", 1)
    monitor.on_tick(1)
    assert monitor.readings().peak_pss_bytes is None
    assert world.reads == 0

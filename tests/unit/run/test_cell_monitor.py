"""The parent's view of a running cell, with clocks and readings made by hand."""

import pytest

from slr_bench.probes import host
from slr_bench.run import cell_monitor as watch_module
from slr_bench.run.cell_monitor import Watch


@pytest.fixture
def world(monkeypatch):
    """Clocks that stand still unless moved, and a PSS that is what it is set to; each PSS read costs 5 ms of CPU."""
    state = {"monotonic": 100.0, "cpu": 1.0, "pss": 10, "reads": 0}

    def read_pss(pid):
        state["cpu"] += 0.005
        state["reads"] += 1
        return state["pss"]

    monkeypatch.setattr(watch_module.time, "monotonic", lambda: state["monotonic"])
    monkeypatch.setattr(watch_module.time, "process_time", lambda: state["cpu"])
    monkeypatch.setattr(host, "tree_pss_bytes", read_pss)
    return state


def test_readings_keep_the_largest_pss_and_leave_its_cost_out(world):
    phases = []
    watch = Watch(phases.append)
    for pss in (10, 70, 30):
        world["pss"] = pss
        watch.on_tick(1)
    world["monotonic"] += 10
    world["cpu"] += 0.02
    values = {name: metric.value for name, metric in watch.readings(work_s=9.5).items()}
    assert values == {
        "peak_pss_bytes": 70,
        "harness_s": pytest.approx(0.5),
        "parent_cpu_ratio": pytest.approx(0.002),
    }


def test_nothing_is_read_while_a_step_is_timed_and_once_as_the_trace_begins(world):
    phases = []
    watch = Watch(phases.append)
    watch.on_message({"phase": "step 1/2", "pid": 1})
    watch.on_tick(1)
    assert world["reads"] == 0
    watch.on_message({"phase": "trace", "pid": 1})
    assert world["reads"] == 1
    watch.on_message({"result": {}, "pid": 1})
    assert phases == ["step 1/2", "trace"]


def test_a_cell_whose_pss_was_never_readable_says_so(world):
    world["pss"] = None
    watch = Watch(lambda phase: None)
    watch.on_tick(1)
    world["monotonic"] += 1
    reading = watch.readings(work_s=2.0)["peak_pss_bytes"]
    assert (reading.value, reading.reason) == (None, "no reading succeeded while the cell ran")
    assert watch.readings(work_s=2.0)["harness_s"].value == 0

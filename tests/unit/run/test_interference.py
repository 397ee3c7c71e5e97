"""Warnings about disturbed runs, over clocks and counters made by hand."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slr_bench.execute import machine
from slr_bench.execute.job import GpuFacts
from slr_bench.execute.machine import Clocks, JobMonitor, Readers, foreign_share
from slr_bench.run.cell_runner import (
    CLOCK_JUMP_S,
    FEWEST_REPETITIONS,
    FOREIGN_CPU_SHARE,
    SWAPPED_BYTES,
    gpu_warnings,
    may_repeat,
    warnings_of,
)

CORES = 2


class World:
    """Clocks and counters that a test moves."""

    def __init__(self, **state):
        self.state = {"wall": 1e9, "monotonic": 5.0, "busy": 70.0, "own": 3.0, "swapped": 0, "tree_swap": 0} | state
        read = self.state.__getitem__
        self.readers = Readers(
            wall_s=lambda: read("wall"),
            monotonic_s=lambda: read("monotonic"),
            busy_s=lambda: read("busy"),
            own_s=lambda pid: read("own"),
            swapped_bytes=lambda: read("swapped"),
            tree_swap_bytes=lambda pid: read("tree_swap"),
            pss_bytes=lambda pid: None,
            oom_kills=lambda: None,
            cores=CORES,
        )

    def pass_time(self, seconds: float, own: float = 0.0, foreign: float = 0.0, **more) -> None:
        moves = {"wall": seconds, "monotonic": seconds, "own": own, "busy": own + foreign} | more
        for name, step in moves.items():
            if self.state[name] is not None:
                self.state[name] += step


def warnings_in(world: World, *, timed: dict | None = None, after: dict | None = None, gpu=None, kind: str = "step"):
    monitor = JobMonitor(world.readers)
    monitor.on_phase("build", 7)
    world.pass_time(3.0, own=1.0, foreign=5.0)  # before the timed steps anybody may work
    for number in (1, 2) if kind == "step" else ():
        monitor.on_phase(f"step {number}/2", 7)
        world.pass_time(**(timed or {"seconds": 1.0, "own": 2.0}))
    monitor.on_phase("trace", 7)
    world.pass_time(**{"seconds": 1.0, "foreign": 2.0} | (after or {}))
    return warnings_of(monitor.readings(), gpu)


def test_quiet_machine_gives_no_warning():
    assert warnings_in(World()) == ()
    daemons = {"seconds": 1.0, "own": 1.9, "foreign": 0.03 * CORES}
    assert warnings_in(World(), timed=daemons) == ()


@settings(deadline=None)
@given(st.floats(0.05, 100), st.floats(0, 1), st.integers(-2, 2), st.integers(-2, 2))
def test_rounding_to_ticks_never_makes_a_quiet_machine_busy(window_s, load, busy_error, own_error):
    """Whatever the cell itself uses, and two ticks of error a core on either side."""
    own_s = load * CORES * window_s
    start = Clocks(0.0, 0.0, 0.0)
    end = Clocks(window_s, own_s + busy_error * machine.TICK_S, max(0.0, own_s + own_error * machine.TICK_S))
    share = foreign_share(start, end, CORES)
    assert share is None or share <= FOREIGN_CPU_SHARE


@settings(deadline=None)
@given(st.floats(1, 100), st.floats(0, 0.8), st.floats(0, 1))
def test_the_share_is_that_of_the_others_less_the_rounding(window_s, own, foreign):
    start, room = Clocks(5.0, 9.0, 1.0), CORES * window_s
    end = Clocks(5.0 + window_s, 9.0 + room * (own + foreign), 1.0 + room * own)
    expected = max(0.0, foreign - 2 * machine.TICK_S / window_s)
    assert foreign_share(start, end, CORES) == pytest.approx(expected, abs=1e-6)


def test_foreign_work_while_steps_are_timed_is_reported_with_its_share():
    (warning,) = warnings_in(World(), timed={"seconds": 1.0, "own": 1.0, "foreign": 0.5})
    assert warning == "foreign CPU work: other processes took 24% of the cores while steps were timed (limit 10%)"


@pytest.mark.parametrize("unknown", ["busy", "own"])
def test_unknown_readings_give_no_warning(unknown):
    world = World(**{unknown: None})
    world.state.setdefault(unknown, None)
    assert warnings_in(world, timed={"seconds": 1.0, "own": 0.0, "foreign": 2.0}) == ()
    assert warnings_in(World(swapped=None, tree_swap=None)) == ()


def test_work_that_times_no_steps_is_not_judged_by_the_cpu():
    assert warnings_in(World(), kind="whole") == ()


def test_a_step_that_never_ended_is_not_judged_by_the_cpu():
    world = World()
    monitor = JobMonitor(world.readers)
    monitor.on_phase("step 1/2", 7)
    world.pass_time(9.0, foreign=18.0)
    assert warnings_of(monitor.readings()) == ()


def test_swapping_is_reported_from_one_mebibyte_on():
    assert warnings_in(World(), after={"swapped": SWAPPED_BYTES - 1}) == ()
    (warning,) = warnings_in(World(), after={"swapped": 3 * SWAPPED_BYTES})
    assert warning == "swapping: the machine moved 3.0 MiB in or out of swap during the run"
    (warning,) = warnings_in(World(tree_swap=2 * SWAPPED_BYTES))
    assert warning == "swapping: 2.0 MiB of the cell lay in swap"
    assert warnings_in(World(swapped=500 * SWAPPED_BYTES)) == ()  # of another time


@pytest.mark.parametrize("jump_s", [-3600.0, -1.0, 1.0, 86400.0])
def test_clock_that_was_set_is_reported(jump_s):
    (warning,) = warnings_in(World(), after={"wall": 1.0 + jump_s})
    assert warning == f"clock jump: the wall clock moved {jump_s:+.1f} s against the monotonic clock"
    assert warnings_in(World(), after={"wall": 1.0 + CLOCK_JUMP_S / 2}) == ()


def test_throttled_or_shared_gpu_is_reported():
    facts = GpuFacts(("hw_slowdown", "sw_thermal_slowdown"), 2)
    assert warnings_in(World(), gpu=facts) == (
        "GPU throttled: hw_slowdown, sw_thermal_slowdown",
        "foreign GPU work: 2 other processes on the device",
    )
    assert gpu_warnings(GpuFacts()) == gpu_warnings(GpuFacts((), 0)) == ()


def thrown(*names: str) -> list:
    return [SimpleNamespace(name=name) for name in names]


def test_a_run_is_repeated_as_often_as_the_grid_says():
    assert may_repeat("x", [], runs=30, reruns=1)
    assert not may_repeat("x", thrown("x"), runs=30, reruns=1)
    assert may_repeat("x", thrown("x", "y"), runs=30, reruns=2)
    assert not may_repeat("x", [], runs=30, reruns=0)


@given(st.integers(1, 300), st.integers(0, 5))
def test_a_machine_that_is_never_quiet_lengthens_a_grid_by_a_third_at_most(runs, reruns):
    discarded: list = []
    for number in range(runs):
        while may_repeat(str(number), discarded, runs, reruns):
            discarded.append(SimpleNamespace(name=str(number)))
    assert len(discarded) <= max(FEWEST_REPETITIONS, runs / 3)
    assert len(discarded) == min(runs * reruns, max(FEWEST_REPETITIONS, runs // 3))

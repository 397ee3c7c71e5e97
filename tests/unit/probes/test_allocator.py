"""Tests of torch's CUDA counters: null with a reason on a CPU; total peaks and peaks per phase on a GPU."""

from contextlib import ExitStack

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slr_bench.probes.allocator import KINDS, CudaAllocatorProbe
from slr_bench.worker.context import PhaseClock

NAMES = {"peak_allocated_bytes", "peak_requested_bytes", "peak_reserved_bytes"}
GPU = torch.device("cuda")


class FakeAllocator:
    """The counters of ``torch.cuda``: now and peak of each kind. A block is twice the request, and cached."""

    def __init__(self):
        self.calls = []
        self.now = dict.fromkeys(KINDS, 0)
        self.peak = dict(self.now)

    def hold(self, size):
        """``size`` bytes are requested and alive now."""
        self.now = {"requested": size, "allocated": 2 * size, "reserved": max(self.now["reserved"], 3 * size)}
        self.peak = {kind: max(self.peak[kind], self.now[kind]) for kind in KINDS}

    def stats(self, device):
        self.calls.append("read")
        return {f"{kind}_bytes.all.peak": self.peak[kind] for kind in KINDS}

    def reset(self, device):
        self.calls.append("reset")
        self.peak = dict(self.now)

    def probe(self):
        return CudaAllocatorProbe(GPU, self.stats, self.reset, lambda device: self.calls.append("wait"))


def values(probe):
    return {name: metric.value for name, metric in probe.readings().items()}


def test_cpu_readings_are_null_with_the_reason_and_no_phase_is_kept():
    with CudaAllocatorProbe(torch.device("cpu")) as probe, probe.phase("forward"):
        torch.ones(8)
    readings = probe.readings()
    assert readings.keys() == NAMES
    assert all(metric.value is None and "ran on the CPU" in metric.reason for metric in readings.values())
    assert probe.peaks_by_phase == {}


def test_gpu_counters_are_reset_once_the_device_is_idle():
    allocator = FakeAllocator()
    allocator.hold(500)
    allocator.hold(4)
    probe = allocator.probe()
    assert {metric.reason for metric in probe.readings().values()} == {"the probe was not closed"}
    with probe:
        allocator.calls.append("work")
        allocator.hold(7)
    assert allocator.calls == ["wait", "reset", "work", "wait", "read"]
    assert values(probe) == {"peak_requested_bytes": 7, "peak_allocated_bytes": 14, "peak_reserved_bytes": 1500}


def test_phase_has_its_own_peak_and_the_total_keeps_the_largest():
    allocator = FakeAllocator()
    with allocator.probe() as probe:
        with probe.phase("forward"):
            allocator.hold(90)
            with probe.phase("attention"):
                allocator.hold(100)
                allocator.hold(60)
        allocator.hold(70)
        with probe.phase("backward"):
            allocator.hold(80)
            allocator.hold(10)
        with probe.phase("optimizer"):
            allocator.hold(20)
    requested = {name: peaks["requested"] for name, peaks in probe.peaks_by_phase.items()}
    assert requested == {"forward": 100, "attention": 100, "backward": 80, "optimizer": 20}
    assert values(probe)["peak_requested_bytes"] == 100


def test_failing_phase_leaves_its_peak():
    allocator = FakeAllocator()
    probe = allocator.probe()

    def work():
        with probe, probe.phase("forward"):
            allocator.hold(30)
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert probe.peaks_by_phase["forward"]["allocated"] == 60
    assert values(probe)["peak_allocated_bytes"] == 60


def test_probe_gets_phases_from_the_clock_while_it_listens():
    allocator, clock = FakeAllocator(), PhaseClock()
    with allocator.probe() as probe:
        with clock.listening(probe.phase), clock("forward"):
            allocator.hold(30)
        with clock("backward"):
            allocator.hold(50)
    assert probe.peaks_by_phase.keys() == {"forward"}
    assert values(probe)["peak_requested_bytes"] == 50


EVENTS = st.lists(st.one_of(st.integers(0, 99), st.sampled_from("abc"), st.just("end")), max_size=40)


@given(EVENTS)
def test_peaks_equal_those_counted_by_hand(events):
    """A number holds that many bytes, a letter enters a phase, ``end`` leaves the innermost."""
    allocator, now, whole, by_phase, stack = FakeAllocator(), 0, 0, {}, []
    with allocator.probe() as probe:
        opened = []
        for event in events:
            if isinstance(event, int):
                allocator.hold(event)
                now = event
            elif event != "end":
                opened.append(ExitStack())
                opened[-1].enter_context(probe.phase(event))
                stack.append(event)
            elif opened:
                opened.pop().close()
                stack.pop()
            whole = max(whole, now)
            by_phase |= {name: max(by_phase.get(name, 0), now) for name in stack}
        while opened:
            opened.pop().close()
    assert values(probe)["peak_requested_bytes"] == whole
    assert {name: peaks["requested"] for name, peaks in probe.peaks_by_phase.items()} == by_phase


@pytest.mark.gpu
def test_a_tensor_of_known_size_on_a_real_gpu():
    torch.zeros(1, device=GPU)
    with CudaAllocatorProbe(GPU) as probe:
        before = torch.cuda.memory_allocated(GPU)
        with probe.phase("small"):
            torch.empty(100_000, dtype=torch.uint8, device=GPU)
        with probe.phase("large"):
            torch.empty(300_000, dtype=torch.uint8, device=GPU)
        with probe.phase("none"):
            pass
    found = values(probe)
    assert found["peak_allocated_bytes"] - before == 300_032  # the next multiple of 512
    assert found["peak_requested_bytes"] <= found["peak_allocated_bytes"] <= found["peak_reserved_bytes"]
    rises = {name: peaks["allocated"] - before for name, peaks in probe.peaks_by_phase.items()}
    assert rises == {"small": 100_352, "large": 300_032, "none": 0}

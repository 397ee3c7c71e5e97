"""Tests of live readings of a hand-made process tree and its GPUs, and of this process."""

import os
import subprocess
import sys

import pytest
from fake_nvml import NO_PERMISSION, FakeCard, FakeNvml

from slr_bench.probes import live
from slr_bench.probes.host import HostMemory
from slr_bench.probes.live import PSS_PERIOD_S, LiveReader, open_gpus
from slr_bench.probes.tree import ProcessMemory
from slr_bench.units import MIB

MEMORY = HostMemory(600, 1000, "cgroup v2")


class World:
    """Process 7 and its children; a clock that stands still but for what a PSS reading costs."""

    def __init__(self, gpus=()):
        self.now_s, self.pss_cost_s, self.reads = 0.0, 0.0, []
        self.rss = {7: 100, 8: 300, 9: 200}
        self.pss = {7: 60, 8: 250, 9: 150}
        self.reader = LiveReader(
            7,
            gpus,
            clock=lambda: self.now_s,
            read_tree=lambda pid: list(self.rss),
            read_one=lambda pid: ProcessMemory(pid, f"p{pid}", self.rss[pid], 2 * self.rss[pid]),
            read_pss=self.read_pss,
            read_host=lambda pid: MEMORY,
        )

    def read_pss(self, pid):
        self.now_s += self.pss_cost_s
        self.reads.append(pid)
        if self.pss[pid] == "refused":
            raise PermissionError
        return self.pss[pid]


def test_root_comes_first_then_the_largest_and_sums_cover_all():
    reading = World().reader.read()
    assert [process.pid for process in reading.processes] == [7, 8, 9]
    assert (reading.rss_bytes, reading.pss_bytes, reading.ram_bytes, reading.ram_kind) == (600, 460, 600, "RSS")
    assert (reading.memory, reading.used_fraction) == (MEMORY, 0.6)


def test_pss_is_read_rarely_and_takes_at_most_a_hundredth_of_the_time():
    world = World()
    world.pss_cost_s = 0.1
    world.reader.read()
    assert world.reads == [7, 8, 9]
    world.now_s = 0.3 + 29.9
    world.reader.read()
    assert world.reads == [7, 8, 9]
    world.now_s = 0.3 + 30.1
    world.reader.read()
    assert world.reads == [7, 8, 9] * 2


def test_new_process_is_soon_part_of_the_sum():
    world = World()
    world.pss_cost_s = 1.0
    world.reader.read()
    world.rss[10], world.pss[10] = 50, 40
    world.reader.read()
    assert world.reads == [7, 8, 9]
    world.now_s += PSS_PERIOD_S
    assert world.reader.read().pss_bytes == 500


def test_ended_process_leaves_the_sum():
    world = World()
    world.reader.read()
    del world.rss[8]
    assert world.reader.read().pss_bytes == 210


def test_unreadable_process_makes_the_figure_rss_and_each_kind_has_its_own_peak():
    world = World()
    world.reader.read()
    world.pss[9], world.now_s = "refused", PSS_PERIOD_S
    reading = world.reader.read()
    assert (reading.pss_bytes, reading.ram_bytes, reading.ram_kind) == (None, 600, "RSS")
    assert reading.pss_by_pid == {7: 60, 8: 250, 9: None}
    assert world.reader.peaks.ram_bytes == {"PSS": 460, "RSS": 600}


def test_ram_is_that_of_now_and_pss_has_its_age():
    world = World()
    assert world.reader.read().pss_age_s == 0.0
    world.rss, world.now_s = {7: 1000, 8: 300, 9: 200}, 1.5
    reading = world.reader.read()
    assert (reading.ram_bytes, reading.pss_bytes, reading.pss_age_s) == (1500, 460, 1.5)


def test_pss_of_a_part_of_the_tree_is_not_that_of_the_tree():
    world = World()
    world.reader.read()
    world.rss[10] = 50
    reading = world.reader.read()
    assert (reading.pss_bytes, reading.pss_by_pid) == (None, {7: 60, 8: 250, 9: 150})


def test_peak_of_one_process_is_the_kernels_mark_and_exact():
    world = World()
    world.rss = {7: 100}
    world.reader.read()
    peaks = world.reader.peaks
    assert (peaks.peak_bytes, peaks.is_exact) == (200, True)
    world.rss[8] = 50
    world.reader.read()
    assert (peaks.peak_bytes, peaks.is_exact) == (200, False)  # 150 at the reading; one process alone had 200
    world.rss[8] = 500
    world.reader.read()
    assert (peaks.peak_bytes, peaks.largest_mark_bytes) == (1000, 1000)


def test_peaks_keep_the_largest_values():
    world = World()
    world.reader.read()
    world.rss[7], world.pss[7], world.now_s = 500, 400, PSS_PERIOD_S
    world.reader.read()
    world.rss[7], world.pss[7], world.now_s = 1, 1, 2 * PSS_PERIOD_S
    world.reader.read()
    peaks = world.reader.peaks
    assert (peaks.readings, peaks.ram_bytes, peaks.high_water_bytes) == (3, {"RSS": 1000, "PSS": 800}, 1000)


def test_ended_process_has_no_reading():
    world = World()
    del world.rss[7]  # its children may live on
    assert world.reader.read() is None
    assert world.reader.peaks.readings == 0


@pytest.fixture
def cards(monkeypatch):
    """Two cards on a machine with one PID namespace; reading the second one's memory is refused."""
    monkeypatch.setattr(live, "is_machines_namespace", lambda: True)
    first = FakeCard(uuid="GPU-1", processes={"Compute": [(7, 50), (9, 20), (99, 500)]})
    second = FakeCard(uuid="GPU-2", name="Other", refused={"nvmlDeviceGetMemoryInfo_v2": NO_PERMISSION})
    return open_gpus(FakeNvml(first, second))


def test_gpus_count_the_trees_processes_and_each_null_has_its_reason(cards):
    world = World(cards)
    first, second = world.reader.read().gpus
    assert (first.reading.process_bytes, first.reading.device_bytes, first.reasons) == (70, 700, {})
    assert (second.number, second.name, second.reading.device_bytes) == (1, "Other", None)
    assert second.reasons.keys() == {"process_bytes", "device_bytes"}
    assert "Insufficient Permissions" in second.reasons["device_bytes"]
    assert world.reader.peaks.gpu_bytes == {0: 70}
    assert world.reader.peaks.device_bytes == {0: 700}


def test_the_whole_machine_has_no_processes_and_no_process_bytes(cards):
    reading = LiveReader(None, cards, read_host=lambda pid: MEMORY).read()
    assert (reading.ram_bytes, reading.ram_kind, reading.processes) == (600, "used", ())
    assert reading.gpus[0].reading.process_bytes is None
    assert reading.gpus[0].reasons["process_bytes"] == "the whole machine is watched, not a process"


SCHEDULE = """
import mmap, sys
blocks = []
for line in sys.stdin:
    if line == "free\\n":
        blocks.pop()
    else:
        blocks.append(mmap.mmap(-1, int(line) << 20, flags=mmap.MAP_PRIVATE))
        for offset in range(0, len(blocks[-1]), 4096):
            blocks[-1][offset] = 1
    print("done", flush=True)
"""


def test_every_reading_is_that_of_the_moment_and_the_peak_misses_nothing():
    """A process holds a known amount at each reading; the largest amount is gone again before it is read."""
    command = [sys.executable, "-c", SCHEDULE]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:

        def ask(line):
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"

        ask(1)
        reader = LiveReader(process.pid, clock=lambda: 0.0)  # PSS is read once
        first = reader.read()
        held = 0
        for size in (20, 40, 64):
            ask(size)
            held += size
            now = reader.read()
            assert now.ram_bytes - first.ram_bytes == pytest.approx(held * MIB, abs=MIB)
            assert now.pss_bytes == first.pss_bytes
        ask(100)
        ask("free")
        assert reader.read().ram_bytes - first.ram_bytes == pytest.approx(held * MIB, abs=MIB)
        assert reader.peaks.peak_bytes - first.ram_bytes == pytest.approx((held + 100) * MIB, abs=MIB)
        assert reader.peaks.is_exact


def test_this_process_can_be_read():
    reading = LiveReader(os.getpid()).read()
    own = reading.processes[0]
    assert own.pid == os.getpid()
    assert 0 < reading.pss_by_pid[own.pid] <= own.rss_bytes + (1 << 20)
    assert own.rss_bytes <= own.peak_rss_bytes

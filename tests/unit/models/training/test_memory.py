"""Readings of hand-written fakes, thresholds, advice, hysteresis, and the documented call."""

import mmap

import pytest
import torch
from tiny import NoPeaks, fake_tracker

from models.training.memory import OwnPeaks, own_ram_reader, read_gpu_memory
from slr_bench.errors import ProbeUnavailableError
from slr_bench.probes.host import rss_bytes

GIB = 2**30


def tracker(percents, gpu_percent=0.0, **more):
    """Return a tracker of readings; the memory is this process's own unless ``own_gib`` says otherwise."""
    return fake_tracker(iter(percents).__next__, lambda: gpu_percent, **more)


def test_readings_are_in_gib_and_relative_to_the_limit():
    stats = tracker([25]).check_memory()
    assert (stats["ram_used"], stats["ram_total"], stats["ram_percent"]) == (2.5, 10.0, 25.0)
    assert stats["ram_source"] == "cgroup v2"
    assert stats["gpu_available"] is False


@pytest.mark.parametrize(
    ("percent", "gpu_percent", "level"),
    [(89, 0, "ok"), (90, 0, "warning"), (95, 0, "critical"), (10, 91, "warning"), (91, 96, "critical")],
)
def test_level_is_that_of_the_fuller_memory(percent, gpu_percent, level):
    assert tracker([percent], gpu_percent).check_memory()["level"] == level


def advice(percents, **more):
    watched = tracker(percents, **more)
    return [watched.advice(watched.check_memory()) for _ in percents]


def test_each_level_is_announced_once_until_use_falls():
    lines = advice([50, 91, 92, 89, 91, 96, 97, 91, 96, 84, 91])
    told = [bool(line) for line in lines]
    #       50     91    92     89     91     96    97     91     96     84     91
    assert told == [False, True, False, False, False, True, False, False, False, False, True]


def test_critical_is_announced_again_after_a_real_fall():
    assert [bool(line) for line in advice([96, 89, 96])] == [True, False, True]


def test_lines_state_the_problem_and_the_cure():
    warning, critical = advice([91, 96])
    assert warning == "memory warning: RAM is 91 % full"
    assert "\n" not in critical
    for word in (
        "memory critical: RAM is 96 % full",
        "training.batch_size",
        "gradient_accumulation_steps",
        "num_workers",
    ):
        assert word in critical
    (gpu,) = advice([10], gpu_percent=97)
    assert "GPU memory is 97 % full" in gpu
    assert "num_workers" not in gpu


def test_gpu_memory_of_other_programs_is_announced_without_a_cure():
    watched = tracker([10], gpu_percent=97)
    reading = watched.check_memory() | {"is_gpu_others": True, "gpu_peak_allocated": 2.0}
    assert watched.advice(reading).startswith("memory critical: GPU memory is 97 % full, 7.7 of 9.7 GiB by other")


def test_other_programs_are_announced_once_until_use_falls():
    lines = advice([50, 91, 96, 99, 91, 84, 96], own_gib=2.3)
    assert [bool(line) for line in lines] == [False, True, False, False, False, False, True]
    assert lines[1] == (
        "memory warning: RAM is 91 % full, 6.8 of 9.1 GiB by other programs; "
        "close them if you can, the training keeps its batches"
    )


def test_memory_is_attributed_only_above_the_threshold():
    """Attributing it reads the page tables of all loader processes."""
    stats = tracker([89], own_gib=1.0).check_memory()
    assert (stats["ram_own"], stats["is_ram_others"]) == (None, False)
    stats = tracker([95], own_gib=4.0).check_memory()
    assert (stats["ram_own"], stats["is_ram_others"]) == (4.0, True)
    assert stats["ram_over_warning"] == pytest.approx(0.5)
    assert tracker([95], own_gib=5.0).check_memory()["is_ram_others"] is False


def test_peak_of_a_step_counts_as_own():
    """Others hold 4.5 GiB; this training holds 5.0 at its peak and 1.0 after it."""
    peaks = NoPeaks()
    peaks.over_now_bytes = 4 * GIB
    stats = tracker([55], peaks=peaks, own_gib=1.0).check_memory()
    assert (stats["ram_own"], stats["is_ram_others"]) == (5.0, False)


@pytest.mark.parametrize(("outside", "is_others"), [(4, False), (6, True)])
def test_gpu_memory_is_others_if_they_hold_more_than_half_of_it(monkeypatch, outside, is_others):
    """The allocator's peak is 4.9 GiB of 10; the rest of the memory in use is outside it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: ((10 - outside - 3) * GIB, 10 * GIB))
    for name, value in {"memory_allocated": 1, "memory_reserved": 3, "max_memory_allocated": 5}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value * GIB)
    stats = read_gpu_memory()
    watched = fake_tracker(lambda: 10, peaks=NoPeaks())
    watched._read_gpu = lambda: stats
    assert watched.check_memory()["is_gpu_others"] is is_others


def test_own_memory_is_that_of_this_process_and_its_children():
    """It includes a block that this process has just filled."""
    before = own_ram_reader()()
    with mmap.mmap(-1, 64 * 2**20) as held:
        held.write(b"1" * len(held))
        after = own_ram_reader()()
    assert 60 * 2**20 < after - before < 100 * 2**20


def test_thresholds_can_be_set():
    assert tracker([60], warning_threshold=0.5, critical_threshold=0.7).check_memory()["level"] == "warning"


def test_the_documented_call_prints():
    from models.training.efficient_trainer import MemoryTracker as Documented

    stats = Documented().check_memory()
    assert f"GPU Memory: {stats['gpu_allocated']:.2f} GB".startswith("GPU Memory: ")
    assert f"RAM Usage: {stats['ram_percent']:.1f}%".endswith("%")
    assert 0 < stats["ram_used"] < stats["ram_total"]
    assert stats["level"] in ("ok", "warning", "critical")
    if not torch.cuda.is_available():
        assert (stats["gpu_available"], stats["gpu_allocated"], stats["gpu_total"]) == (False, 0.0, 0.0)


def test_gpu_cache_counts_as_free(monkeypatch):
    """6 of 16 GiB are free and this process reserves 7 (at most 4 in use), so others hold 3 and 7 are really used."""
    numbers = {"memory_allocated": 2, "memory_reserved": 7, "max_memory_allocated": 4}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (6 * GIB, 16 * GIB))
    for name, value in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value * GIB)
    stats = read_gpu_memory()
    assert (stats["gpu_allocated"], stats["gpu_reserved"], stats["gpu_peak_allocated"]) == (2.0, 7.0, 4.0)
    assert (stats["gpu_total"], stats["gpu_percent"]) == (16.0, pytest.approx(100 * 7 / 16))


def test_a_peak_between_two_readings_counts():
    peaks = NoPeaks()
    peaks.over_now_bytes = 6 * GIB
    stats = tracker([35], peaks=peaks).check_memory()
    assert (stats["ram_percent"], stats["ram_peak_percent"]) == (35.0, pytest.approx(95.0))
    assert stats["ram_level"] == stats["level"] == "critical"


@pytest.mark.parametrize(
    ("now", "peak_over_now_gib", "gpu_percent", "fits"),
    [
        (30, 2.9, 0, True),  # 30 + 2 x 29 = 88
        (30, 3.1, 0, False),  # 30 + 2 x 31 = 92
        (10, 0, 44, True),  # 44 + 43.5 = 87.5
        (10, 0, 46, False),
        (91, 0, 0, False),
    ],
)
def test_doubling_fits_below_the_warning_threshold(now, peak_over_now_gib, gpu_percent, fits):
    peaks = NoPeaks()
    peaks.over_now_bytes = round(peak_over_now_gib * GIB)
    watched = tracker([now], gpu_percent, peaks=peaks)
    assert watched.doubling_fits(watched.check_memory()) is fits


def test_peaks_of_this_process_are_measured_and_reset():
    peaks = OwnPeaks()
    peaks.reset()
    with mmap.mmap(-1, 128 * 2**20) as held:  # a tensor's memory may stay in the heap when it goes
        held.write(b"1" * len(held))
    assert peaks.rss_over_now_bytes() > 100 * 2**20
    before = peaks.rss_bytes()
    peaks.reset()
    assert peaks.rss_over_now_bytes() < 16 * 2**20
    assert peaks.rss_bytes() == before > rss_bytes()
    assert peaks.gpu_bytes(torch.device("cpu")) is None


def test_peaks_that_cannot_be_reset_are_not_used(monkeypatch):
    def refused():
        raise ProbeUnavailableError("clear_refs cannot be written")

    monkeypatch.setattr("models.training.memory.reset_high_water", refused)
    monkeypatch.setattr("models.training.memory.high_water_bytes", lambda: 2 * rss_bytes())
    peaks = OwnPeaks()
    assert peaks.rss_over_now_bytes() > 0
    peaks.reset()
    assert peaks.rss_over_now_bytes() == 0

"""Readings by hand-written fakes; thresholds, advice, hysteresis; the documented call."""

import pytest
import torch

from models.training.memory import MemoryTracker, read_gpu_memory
from slr_bench.probes.host import HostMemory

NO_GPU = dict.fromkeys(["gpu_allocated", "gpu_reserved", "gpu_peak_allocated", "gpu_total", "gpu_percent"], 0.0)
GIB = 2**30


def tracker(percents, gpu_percent=0.0, **thresholds):
    readings = iter(percents)
    return MemoryTracker(
        read_host=lambda: HostMemory(round(next(readings) / 100 * 10 * GIB), 10 * GIB, "cgroup v2"),
        read_gpu=lambda: {"gpu_available": gpu_percent > 0, **NO_GPU, "gpu_percent": gpu_percent},
        **thresholds,
    )


def test_readings_are_in_gib_and_of_the_limit():
    stats = tracker([25]).check_memory()
    assert (stats["ram_used"], stats["ram_total"], stats["ram_percent"]) == (2.5, 10.0, 25.0)
    assert stats["ram_source"] == "cgroup v2"
    assert (stats["gpu_available"], stats["gpu_allocated"]) == (False, 0.0)


@pytest.mark.parametrize(
    ("percent", "gpu_percent", "level"),
    [(89, 0, "ok"), (90, 0, "warning"), (95, 0, "critical"), (10, 91, "warning"), (91, 96, "critical")],
)
def test_level_is_that_of_the_fuller_memory(percent, gpu_percent, level):
    assert tracker([percent], gpu_percent).check_memory()["level"] == level


def advice(percents, **more):
    watched = tracker(percents, **more)
    return [watched.advice(watched.check_memory()) for _ in percents]


def test_each_level_is_told_once_until_use_has_fallen():
    lines = advice([50, 91, 92, 89, 91, 96, 97, 91, 96, 84, 91])
    told = [bool(line) for line in lines]
    #       50     91    92     89     91     96    97     91     96     84     91
    assert told == [False, True, False, False, False, True, False, False, False, False, True]


def test_critical_again_after_a_real_fall():
    assert [bool(line) for line in advice([96, 89, 96])] == [True, False, True]


def test_lines_say_what_and_the_cure():
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


def test_own_thresholds():
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
    """Of 16 GiB, 6 are free, we reserve 7 (4 at the peak in use): others hold 3, so 7 of 16 are really used."""
    numbers = {"memory_allocated": 2, "memory_reserved": 7, "max_memory_allocated": 4}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (6 * GIB, 16 * GIB))
    for name, value in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value * GIB)
    stats = read_gpu_memory()
    assert (stats["gpu_allocated"], stats["gpu_reserved"], stats["gpu_peak_allocated"]) == (2.0, 7.0, 4.0)
    assert (stats["gpu_total"], stats["gpu_percent"]) == (16.0, pytest.approx(100 * 7 / 16))

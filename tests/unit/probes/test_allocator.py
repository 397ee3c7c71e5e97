"""Torch's CUDA counters: null with a reason on a CPU; reset before and read after on a GPU."""

import pytest
import torch

from slr_bench.probes.allocator import CudaAllocatorProbe

NAMES = {"peak_allocated_bytes", "peak_requested_bytes", "peak_reserved_bytes"}


def test_on_a_cpu_every_reading_is_null_with_the_reason():
    with CudaAllocatorProbe(torch.device("cpu")) as probe:
        torch.ones(8)
    readings = probe.readings()
    assert readings.keys() == NAMES
    assert all(metric.value is None and "ran on the CPU" in metric.reason for metric in readings.values())


def test_on_a_gpu_the_counters_are_reset_once_the_device_is_idle(monkeypatch):
    calls = []
    stats = {f"{name}_bytes.all.peak": size for size, name in enumerate(("allocated", "requested", "reserved"), 7)}
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append("wait"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: calls.append("read") or stats)
    with CudaAllocatorProbe(torch.device("cuda")) as probe:
        calls.append("work")
    assert calls == ["wait", "reset", "work", "read"]
    assert {name: metric.value for name, metric in probe.readings().items()} == {
        "peak_allocated_bytes": 7,
        "peak_requested_bytes": 8,
        "peak_reserved_bytes": 9,
    }


@pytest.mark.gpu
def test_a_tensor_of_known_size_on_a_real_gpu():
    device = torch.device("cuda")
    torch.zeros(1, device=device)
    with CudaAllocatorProbe(device) as probe:
        before = torch.cuda.memory_allocated(device)
        torch.empty(100_000, dtype=torch.uint8, device=device)
    values = {name: metric.value for name, metric in probe.readings().items()}
    assert values["peak_allocated_bytes"] - before == 100_352  # the next multiple of 512
    assert values["peak_requested_bytes"] <= values["peak_allocated_bytes"] <= values["peak_reserved_bytes"]

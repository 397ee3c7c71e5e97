"""Tests of a GPU's readings during a run, with a fake card and clock."""

import itertools

import pytest
from fake_nvml import GPU_IS_LOST, NO_PERMISSION, NOT_SUPPORTED, FakeCard, FakeNvml

from slr_bench.probes.gpu import SLOW_PERIOD_S, GpuProbe, process_memory
from slr_bench.probes.gpu_pids import PidSpace
from slr_bench.probes.nvml import Nvml
from slr_bench.record import Metric

OWN, FOREIGN = 41, 42
MACHINE = PidSpace(frozenset({OWN}), is_machines=True)
CONTAINER = PidSpace(frozenset({OWN}), is_machines=False)


class World:
    """A card that is used step by step while a probe samples it, one look every slow period."""

    def __init__(self, space=MACHINE, **fields):
        self.card = FakeCard(**fields)
        self.library = FakeNvml(self.card)
        clock = itertools.count(step=SLOW_PERIOD_S).__next__
        self.probe = GpuProbe(Nvml(self.library, "GPU-1", space=space), "", clock)

    def look(self, listed, **fields):
        self.card.processes = {"Compute": listed}
        for name, value in fields.items():
            setattr(self.card, name, value)
        return self.probe.sample()

    def values(self):
        return {name: metric.value for name, metric in self.probe.readings().items()}


def test_peaks_extremes_and_the_rise_over_idle():
    world = World(used=100)
    assert world.look([(OWN, 300)], used=400, temperature=60) == (300, 400)
    world.look([(OWN, 500)], used=620, temperature=75, clocks={1: 900, 2: 5001}, event_bits=0x20, power_mw=90_000)
    world.look([(OWN, 200)], used=310, temperature=70, utilization=65, event_bits=0x1)
    assert world.values() == {
        "nvml_process_peak_bytes": 500,
        "nvml_device_peak_bytes": 620,
        "nvml_device_over_idle_bytes": 520,
        "gpu_temperature_c": 75,
        "gpu_utilization_ratio": pytest.approx((0.35 + 0.35 + 0.65) / 3),
        "gpu_sm_clock_hz": 900_000_000,
        "gpu_memory_clock_hz": 5_001_000_000,
        "gpu_power_w": 90.0,
        "gpu_throttled_ratio": pytest.approx(1 / 3),
    }
    readings = world.probe.readings()
    assert "thermal slowdown (software)" in readings["gpu_throttled_ratio"].source
    assert "GPU exclusive" in readings["nvml_device_over_idle_bytes"].source


def test_readings_without_a_gpu_have_the_reason():
    probe = GpuProbe(None, "the cell ran on the CPU", clock=lambda: 0.0)
    assert probe.sample() == (None, None)
    readings = probe.readings()
    assert len(readings) == 9
    assert {(metric.value, metric.reason) for metric in readings.values()} == {(None, "the cell ran on the CPU")}


def test_slow_quantities_are_read_once_per_period():
    card = FakeCard()
    library = FakeNvml(card)
    times_s = iter([0.0, 0.0, 0.5, SLOW_PERIOD_S, SLOW_PERIOD_S + 0.5])
    probe = GpuProbe(Nvml(library, "GPU-1", space=MACHINE), "", times_s.__next__)
    library.asked.clear()
    for _ in range(4):
        probe.sample()
    assert library.asked.count("nvmlDeviceGetTemperature") == 2
    assert library.asked.count("nvmlDeviceGetMemoryInfo_v2") == 4


@pytest.mark.parametrize(
    ("space", "before", "during", "expected"),
    [
        (MACHINE, [(FOREIGN, 1)], [(OWN, 1)], "not exclusive: 1 other"),
        (MACHINE, [], [(OWN, 1), (FOREIGN, 1)], "not exclusive: 1 other"),
        (MACHINE, [(OWN, 1)], [(OWN, 1)], "no idle baseline"),
        (CONTAINER, [], [(FOREIGN, 1)], "taken as exclusive"),
    ],
    ids=["others before", "others during", "own context before", "container"],
)
def test_rise_over_idle_is_reported_only_on_an_exclusive_gpu(space, before, during, expected):
    world = World(space, used=100, processes={"Compute": before})
    world.look(during, used=400)
    metric = world.probe.readings()["nvml_device_over_idle_bytes"]
    assert expected in (metric.reason or metric.source)
    assert metric.value == (300 if expected == "taken as exclusive" else None)


def test_each_refused_query_has_its_own_reason():
    world = World()
    world.card.refused = {"nvmlDeviceGetTemperature": NOT_SUPPORTED, "nvmlDeviceGetPowerUsage": NO_PERMISSION}
    world.look([])
    readings = world.probe.readings()
    assert "Not Supported" in readings["gpu_temperature_c"].reason
    assert "Insufficient Permissions" in readings["gpu_power_w"].reason
    assert "has not used this GPU" in readings["nvml_process_peak_bytes"].reason
    nulls = {name for name, metric in readings.items() if metric.value is None}
    assert nulls == {"gpu_temperature_c", "gpu_power_w", "nvml_process_peak_bytes"}


def test_peak_of_a_device_that_disappears_is_kept_with_the_reason():
    world = World(used=100)
    world.look([(OWN, 300)], used=400)
    world.card.lose()
    assert world.probe.sample() == (None, None)
    readings = world.probe.readings()
    assert readings["nvml_process_peak_bytes"].value == 300
    assert "until the driver stopped reporting it (GPU is lost" in readings["nvml_process_peak_bytes"].source
    assert readings["gpu_temperature_c"].value == 61


def test_a_device_that_was_never_readable_is_null_throughout():
    card = FakeCard()
    nvml = Nvml(FakeNvml(card), "GPU-1", space=MACHINE)
    card.lose()
    probe = GpuProbe(nvml, "", itertools.count().__next__)
    assert all(metric.value is None for metric in probe.readings().values())
    probe.sample()
    for metric in probe.readings().values():
        assert metric.value is None
        assert "GPU is lost" in metric.reason
    assert card.refused["nvmlDeviceGetTemperature"] == GPU_IS_LOST


def known(value, source):
    return Metric(value=value, unit="bytes", source=source, quality="sampled")


def unknown(reason):
    return Metric.unavailable("bytes", "-", reason)


@pytest.mark.parametrize(
    ("process", "over_idle", "reserved", "value", "source"),
    [
        (known(500, "NVML process"), known(600, "over idle"), known(400, "torch.cuda"), 500, "NVML process"),
        (unknown("a"), known(600, "over idle"), known(400, "torch.cuda"), 600, "over idle"),
        (unknown("a"), unknown("b"), known(400, "torch.cuda"), 400, "torch.cuda reserved, without the CUDA context"),
        (known(9, "NVML process"), known(600, "over idle"), known(400, "torch.cuda"), 600, "over idle"),
        (known(9, "NVML process"), unknown("b"), unknown("c"), 9, "NVML process"),
    ],
    ids=["process", "over idle", "torch", "a stranger with the same number", "only the process"],
)
def test_the_best_known_memory_of_the_process_is_labelled(process, over_idle, reserved, value, source):
    metrics = {"nvml_process_peak_bytes": process, "nvml_device_over_idle_bytes": over_idle}
    metric = process_memory(metrics, reserved)
    assert (metric.value, metric.source) == (value, source)


def test_unknown_memory_has_every_reason_once():
    metrics = {"nvml_process_peak_bytes": unknown("a"), "nvml_device_over_idle_bytes": unknown("a")}
    assert process_memory(metrics, unknown("b")).reason == "a; b"

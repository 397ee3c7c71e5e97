"""Observations of the GPU, totals per step, and when each meter is open, in the child that measures."""

from types import SimpleNamespace

import pytest
import torch

from slr_bench.execute.job import GpuFacts, MeasureCell, Work
from slr_bench.grid.training_step import TrainingStep
from slr_bench.record import Metric
from slr_bench.worker import measure as module
from slr_bench.worker.context import Context
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


class RecordingMeter:
    """A probe that notes when it is opened and closed, and has one reading."""

    def __init__(self, name, log):
        self.name, self.log = name, log
        self.peaks_by_phase = {}

    def __enter__(self):
        self.log.append(f"open {self.name}")
        return self

    def __exit__(self, *error):
        self.log.append(f"close {self.name}")

    def readings(self):
        self.log.append(f"read {self.name}")
        absent = {name: Metric.unavailable("bytes", name, "no GPU") for name in RESERVED if self.name == "cuda"}
        return absent | {self.name: Metric(value=6.0, unit="1", source=self.name, quality="measured")}


RESERVED = ("peak_reserved_bytes",)


class ToyStep(TrainingStep):
    """A step that notes when it is loaded and run."""

    def __init__(self, context, log):
        model = torch.nn.Linear(2, 1)
        batch = torch.ones(3, 2), torch.zeros(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        super().__init__(context, model, optimizer, lambda: batch, torch.nn.functional.mse_loss)
        self.log = log

    def load(self):
        self.log.append("load")
        super().load()

    def step(self):
        self.log.append("step")
        super().step()


@pytest.fixture
def log(monkeypatch):
    """Replace the probes by ones that write their openings, readings and closings into a list."""
    log = []
    for name, place, maker in (("host", module.host, "HostProbe"), ("cuda", module, "CudaAllocatorProbe")):
        monkeypatch.setattr(place, maker, lambda *_, name=name: RecordingMeter(name, log))
    monkeypatch.setattr(module, "EnergyProbe", lambda *_: RecordingMeter("energy", log))
    monkeypatch.setattr(module, "process_memory", lambda metrics, reserved: reserved)
    return log


def test_meters_of_a_step_open_after_the_warm_up_and_close_before_the_step_is_traced(log):
    context = Context(torch.device("cpu"), None)
    spec = SimpleNamespace(kind="step", build=lambda settings, context: ToyStep(context, log), throughput_metric="rows")
    task = MeasureCell(Work("toy", {}), warmup_steps=2, timed_steps=3, sample_hz=100)
    found = _Meters(task, context, lambda message: log.append(message.phase)).run(spec, None)
    timed = [line for number in (1, 2, 3) for line in (f"step {number}/3", "step")]
    assert log == [
        *("open host", "load", "load", "warm-up", "step", "step", "open cuda", "open energy", *timed),
        *("close energy", "close cuda", "close host", "read host", "read cuda", "read energy", "trace"),
        *("step", "step"),  # without the tracer, and with it
    ]
    values = {name: metric.value for name, metric in found.metrics.items()}
    assert (values["host"], values["cuda"]) == (6.0, 6.0)
    assert values["energy"] == 2.0, "a total is divided by the three timed steps"
    assert values["rows"] == pytest.approx(3 / values["step_time_s"])
    assert values["peak_tensor_bytes"] > 0
    assert {"build", "load", "forward", "backward", "optimizer"} <= found.phases.keys()
    assert found.samples["columns"][0] == "rss_bytes"
    assert found.samples["traced"] is not None


def test_meters_of_a_whole_training_surround_its_run(log):
    work = SimpleNamespace(run=lambda: log.append("run") or {})
    spec = SimpleNamespace(kind="whole", build=lambda settings, context: work)
    task = MeasureCell(Work("toy", {}), warmup_steps=1, timed_steps=1, sample_hz=100)
    found = _Meters(task, Context(torch.device("cpu"), None), lambda message: log.append(message.phase)).run(spec, None)
    opened, closed = ["open host", "open cuda", "open energy"], ["close energy", "close cuda", "close host"]
    assert log == [*opened, "run", *closed, "read host", "read cuda", "read energy"]
    assert found.metrics["energy"].value == 6.0, "a whole training is one piece of work"
    assert found.metrics["peak_tensor_bytes"].value is None

"""One cell measured: build, load, warm up, time with probes around, then trace in a step of its own."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import torch
from pydantic import BaseModel
from torch._subclasses.fake_tensor import FakeTensorMode

from slr_bench.errors import ProbeUnavailableError, UnsupportedSettingError
from slr_bench.grid.workload import StepWork, find_workload
from slr_bench.probes import host, nvml
from slr_bench.probes.allocator import CudaAllocatorProbe
from slr_bench.probes.sampler import Sampler
from slr_bench.record import Metric
from slr_bench.run.context import Context, resolve_device
from slr_bench.run.result import metrics_json, phases_json, samples_json
from slr_bench.run.validity import GpuWatch
from slr_bench.run.watch import TIMED_PREFIX, TRACE_PHASE
from slr_bench.trace.tracer import LiveBytes

Send = Callable[[dict[str, Any]], None]

_CHECK_BLOCK_S = 0.2  # short blocks: the machine's own drift is the same on both sides of a pair


def measure(job: dict[str, Any], send: Send) -> dict[str, Any]:
    """Measure one job. Returns ``metrics, phases, samples, work_s`` as JSON values.

    Raises:
        UnsupportedSettingError: CUDA asked for where there is none.
    """
    device = torch.device("cpu" if job["fake"] else resolve_device(job["device"]))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnsupportedSettingError(
            "device: cuda, but torch sees no CUDA device; use --device cpu or a machine with one"
        )
    torch.manual_seed(0)
    context = Context(device, FakeTensorMode() if job["fake"] else None)
    spec = find_workload(job["workload"])
    settings = spec.settings.model_validate(job["setting"])
    send({"phase": "build"})
    start_s = time.perf_counter()
    if job["fake"]:
        measured = _trace_fake(job, context, spec.build(settings, context), spec.kind)
    else:
        measured = _Measurement(job, context, send).run(spec.build, settings, spec.kind)
    measured["work_s"] = time.perf_counter() - start_s
    return measured


def _trace_fake(job: dict[str, Any], context: Context, work: StepWork, kind: str) -> dict[str, Any]:
    if kind != "step":
        raise UnsupportedSettingError("fake tensors can trace a step, not a whole training; leave this workload out")
    with context.tensors():
        work.load()
        for _ in range(job["warmup_steps"]):
            work.step()
        tracer = traced_step(work, context)
    metrics = {"peak_tensor_bytes": peak_metric(tracer, context)} | dict(work.metrics())
    return {
        "metrics": metrics_json(metrics),
        "phases": phases_json(context, tracer),
        "samples": samples_json(None, context, tracer),
    }


@contextmanager
def _no_collection() -> Iterator[None]:
    """Cycles are collected before, not during: garbage that happens to wait is not the step's."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def traced_step(work: StepWork, context: Context) -> LiveBytes:
    """One steady step under the tracer."""
    tracer = LiveBytes(context.device, work.tensors())
    context.phase.enabled = False
    context.phase.listener = tracer.phase
    with _no_collection(), tracer:
        work.step()
    context.phase.listener = None
    return tracer


def peak_metric(tracer: LiveBytes, context: Context) -> Metric:
    """``peak_tensor_bytes`` with the source that says what may be compared."""
    source = f"{context.device.type}-{'fake' if context.is_fake else 'real'}"
    return Metric(value=tracer.peak_bytes, unit="bytes", source=source, quality="exact")


class _Measurement:
    """The real thing: probes opened in order, each reading taken while only the work runs."""

    def __init__(self, job: dict[str, Any], context: Context, send: Send) -> None:
        self._job, self._context, self._send = job, context, send
        self._step_times_s: list[float] = []
        self._rss = host.RssReader()
        try:
            library = nvml.load_library() if context.device.type == "cuda" else None
            uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}" if library else None
            self._nvml = nvml.Nvml(library, uuid) if library else None
            self._no_nvml = "the cell ran on the CPU"
        except ProbeUnavailableError as error:
            self._nvml, self._no_nvml = None, str(error)
        self._gpu_watch = GpuWatch(self._nvml)

    def run(self, build: Any, settings: BaseModel, kind: str) -> dict[str, Any]:
        """Metrics, phases and samples of the workload, as JSON values."""
        with closing(self._rss):
            return self._run(build, settings, kind)

    def _run(self, build: Any, settings: BaseModel, kind: str) -> dict[str, Any]:
        host_probe, cuda_probe = host.HostProbe(), CudaAllocatorProbe(self._context.device)
        energy = nvml.EnergyProbe(self._nvml, self._no_nvml)
        sampler = Sampler(self._read_samples, 1 / self._job["sample_hz"], clock=self._context.phase.now_s)
        with ExitStack() as probes:
            probes.enter_context(host_probe)
            probes.enter_context(sampler)
            with self._context.phase("build"):
                work = build(settings, self._context)
            if kind == "whole":
                probes.enter_context(cuda_probe)
                probes.enter_context(energy)
                own = dict(work.run())
            else:
                self._warm_up(work)
                probes.enter_context(cuda_probe)
                probes.enter_context(energy)
                own = self._time_steps(work)
        metrics = own | host_probe.readings() | cuda_probe.readings() | self._sampled(sampler)
        metrics |= self._energy(energy, kind)
        tracer = None
        if kind == "step":
            metrics |= self._check_sampler(work)
            self._send({"phase": TRACE_PHASE})
            tracer = traced_step(work, self._context)
            metrics["peak_tensor_bytes"] = peak_metric(tracer, self._context)
        else:
            reason = "a whole training is not traced; the train_step cell of the same setting is"
            metrics["peak_tensor_bytes"] = Metric.unavailable("bytes", f"{self._context.device.type}-real", reason)
        samples = samples_json(sampler, self._context, tracer)
        return {
            "metrics": metrics_json(metrics),
            "phases": phases_json(self._context, tracer),
            "samples": samples,
            "gpu_facts": self._gpu_watch.facts(),
        }

    def _warm_up(self, work: StepWork) -> None:
        phase = self._context.phase
        self._send({"phase": "load"})
        with phase("load"):
            work.load()
        self._send({"phase": "warm-up"})
        with phase("warm-up"):
            phase.enabled = False
            for _ in range(self._job["warmup_steps"]):
                work.step()
            phase.enabled = True

    def _time_steps(self, work: StepWork) -> dict[str, Metric]:
        on_gpu = self._context.device.type == "cuda"
        for number in range(self._job["timed_steps"]):
            self._send({"phase": f"{TIMED_PREFIX}{number + 1}/{self._job['timed_steps']}"})
            self._context.phase.enabled = not on_gpu  # waiting at each phase would slow a GPU's step
            self._step_times_s.append(self._timed(work))
            self._gpu_watch.look()
        self._context.phase.enabled = True
        if on_gpu:
            with _no_collection():
                work.step()
        median_s = statistics.median(self._step_times_s)
        source = f"perf_counter, median of {len(self._step_times_s)} steps"
        return {
            "step_time_s": Metric(value=median_s, unit="s", source=source, quality="measured"),
            "throughput_clips_per_s": Metric(
                value=work.clips_per_step / median_s, unit="1/s", source=source, quality="measured"
            ),
        } | dict(work.metrics())

    def _timed(self, work: StepWork) -> float:
        with _no_collection():
            self._context.synchronize()
            start_s = time.perf_counter()
            work.step()
            self._context.synchronize()
            return time.perf_counter() - start_s

    def _read_samples(self) -> tuple[int | None, ...]:
        gpu = self._nvml.read() if self._nvml else None
        return (self._rss.read(), gpu.process_bytes if gpu else None, gpu.device_bytes if gpu else None)

    def _sampled(self, sampler: Sampler) -> dict[str, Metric]:
        metrics = {
            "sampler_cpu_ratio": Metric(
                value=sampler.cpu_s / (sampler.times_s[-1] - sampler.times_s[0]),
                unit="ratio",
                source="thread_time",
                quality="measured",
            )
        }
        for column, name in ((1, "nvml_process_peak_bytes"), (2, "nvml_device_peak_bytes")):
            peak = sampler.peak(column)
            reason = self._no_nvml if self._nvml is None else "the driver does not say it for this process"
            metrics[name] = (
                Metric.unavailable("bytes", "NVML", reason)
                if peak is None
                else Metric(value=peak, unit="bytes", source="NVML", quality="sampled")
            )
        return metrics

    def _energy(self, probe: nvml.EnergyProbe, kind: str) -> dict[str, Metric]:
        reading = probe.readings()["energy_j"]
        steps = len(self._step_times_s) + 1 if kind == "step" else 1  # the GPU's phase step ran under the probe too
        if reading.value is None:
            return {"energy_j": reading}
        return {"energy_j": reading.model_copy(update={"value": reading.value / steps})}

    def _check_sampler(self, work: StepWork) -> dict[str, Metric]:
        """Pairs of blocks with and without the sampler, in the order on-off, off-on, ...; the median ratio."""
        pairs = self._job["sampler_check_pairs"]
        if not pairs:
            return {}
        self._send({"phase": "sampler check"})
        self._context.phase.enabled = False
        steps = max(1, round(_CHECK_BLOCK_S / statistics.median(self._step_times_s)))

        def block(with_sampler: bool) -> float:
            meter = (
                Sampler(self._read_samples, 1 / self._job["sample_hz"]) if with_sampler else contextlib.nullcontext()
            )
            with meter:
                return sum(self._timed(work) for _ in range(steps))

        ratios = []
        for number in range(pairs):
            first_on = number % 2 == 0
            times_s = {on: block(on) for on in (first_on, not first_on)}
            ratios.append(times_s[True] / times_s[False])
        value = statistics.median(ratios) - 1
        source = f"median of {pairs} pairs of {steps} steps, sampler on/off in turn"
        return {"sampler_overhead_ratio": Metric(value=value, unit="ratio", source=source, quality="measured")}

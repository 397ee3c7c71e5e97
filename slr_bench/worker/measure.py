"""Measures one cell: builds, loads, warms up, times steps with the probes on, and traces one further step."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from pydantic import BaseModel

from slr_bench.errors import ProbeUnavailableError, UnsupportedSettingError
from slr_bench.execute.job import (
    TIMED_PREFIX,
    TRACE_PHASE,
    GpuFacts,
    Job,
    JsonObject,
    MeasureCell,
    Measurement,
    PhaseEntered,
    Send,
)
from slr_bench.grid.workload import (
    DetailedWork,
    EventfulWork,
    StepWork,
    WorkloadSpec,
    throughput_metric,
    units_per_step,
)
from slr_bench.live_bytes import OUTSIDE
from slr_bench.probes import host, nvml
from slr_bench.probes.allocator import CudaAllocatorProbe
from slr_bench.probes.gpu import EnergyProbe, GpuProbe, process_memory
from slr_bench.probes.sampler import Sampler
from slr_bench.probes.visible import open_device
from slr_bench.record import Metric, Phase, RunEvent
from slr_bench.trace.fake.tensors import refusals_explained
from slr_bench.worker.context import Context, open_work
from slr_bench.worker.traced_step import Traced, no_collection, trace_metrics, trace_step

_CHECK_BLOCK_S = 0.2  # in short blocks the drift of the machine is the same on both sides of a pair


def measure(job: Job[MeasureCell], send: Send) -> Measurement:
    """Measure one cell.

    Raises:
        UnsupportedSettingError: The device is CUDA and torch sees none, or fake tensors cannot run the workload.
    """
    task = job.task
    spec, settings, context = open_work(task.work, job.device)
    if task.gpu_limit_bytes is not None:
        limit_allocator(task.gpu_limit_bytes)
    send(PhaseEntered("build"))
    start_s = time.perf_counter()
    if task.work.fake:
        measured = _trace_fake(task, context, spec.build(settings, context), spec.kind)
    else:
        measured = _Meters(task, context, send).run(spec, settings)
    return replace(measured, work_s=time.perf_counter() - start_s)


def limit_allocator(limit_bytes: int) -> None:
    """Let torch's allocator reserve at most this on ``cuda:0``; a step that needs more runs out of memory."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total), 0)


def _trace_fake(task: MeasureCell, context: Context, work: StepWork, kind: str) -> Measurement:
    if kind != "step":
        raise UnsupportedSettingError("fake tensors can trace a step, not a whole training; leave this workload out")
    with refusals_explained(), context.tensors():
        work.load()
        for _ in range(task.warmup_steps):
            work.step()
        traced = trace_step(work, context)
    metrics = trace_metrics(traced, context) | dict(work.metrics())
    return Measurement(metrics, phases_of(context, traced), samples_json(None, context, traced))


class GpuWatch:
    """Observes the GPU between timed steps: throttling, and other processes on it."""

    def __init__(self, device: Any | None) -> None:
        """``device`` is an open ``probes.nvml.Nvml``, or None without one."""
        self._throttled: dict[str, None] = {}
        self._others = 0
        self._read_throttle = getattr(device, "throttle_reasons", lambda: None)
        self._read_others = getattr(device, "other_pids", lambda: None)

    def look(self) -> None:
        """Read both facts now. What the driver does not report is no disturbance."""
        self._throttled |= dict.fromkeys(self._read_throttle() or ())
        self._others = max(self._others, len(self._read_others() or ()))

    def facts(self) -> GpuFacts:
        """Return everything observed; of other processes only their number."""
        return GpuFacts(tuple(sorted(self._throttled)), self._others)


class _Meters:
    """Opens the probes in order and takes each reading while only the work runs."""

    def __init__(self, task: MeasureCell, context: Context, send: Send) -> None:
        self._task, self._context, self._send = task, context, send
        self._step_times_s: list[float] = []
        self._rss = host.RssReader()
        try:
            library = nvml.load_library() if context.device.type == "cuda" else None
            uuid = str(torch.cuda.get_device_properties(0).uuid) if library else None
            self._nvml = open_device(library, uuid) if library else None
            self._no_nvml = "the cell ran on the CPU"
        except ProbeUnavailableError as error:
            self._nvml, self._no_nvml = None, str(error)
        self._gpu = GpuProbe(self._nvml, self._no_nvml)
        self._cuda = CudaAllocatorProbe(context.device)
        self._gpu_watch = GpuWatch(self._nvml)

    def run(self, spec: WorkloadSpec, settings: BaseModel) -> Measurement:
        """Measure the workload."""
        with closing(self._rss):
            return self._run(spec, settings)

    def _run(self, spec: WorkloadSpec, settings: BaseModel) -> Measurement:
        kind = spec.kind
        host_probe, cuda_probe = host.HostProbe(), self._cuda
        details: JsonObject | None = None
        events: tuple[RunEvent, ...] = ()
        energy = EnergyProbe(self._nvml, self._no_nvml)
        sampler = Sampler(self._read_samples, 1 / self._task.sample_hz, clock=self._context.phase.now_s)
        with ExitStack() as probes:
            probes.enter_context(host_probe)
            probes.enter_context(sampler)
            with self._context.phase("build"):
                work = spec.build(settings, self._context)
            if kind == "whole":
                probes.enter_context(cuda_probe)
                probes.enter_context(energy)
                own = dict(work.run())
                details = dict(work.details()) if isinstance(work, DetailedWork) else None
                events = tuple(work.events()) if isinstance(work, EventfulWork) else ()
            else:
                self._warm_up(work)
                probes.enter_context(cuda_probe)
                probes.enter_context(energy)
                own = self._time_steps(work, spec)
        metrics = own | host_probe.readings() | cuda_probe.readings() | self._sampled(sampler)
        metrics |= self._gpu.readings() | self._per_step(energy.readings(), kind)
        metrics["gpu_memory_peak_bytes"] = process_memory(metrics, metrics["peak_reserved_bytes"])
        traced = None
        if kind == "step":
            metrics |= self._check_sampler(work)
            self._send(PhaseEntered(TRACE_PHASE))
            traced = trace_step(work, self._context)
            metrics |= trace_metrics(traced, self._context)
        else:
            reason = "a whole training is not traced; a step of the same setting is"
            metrics["peak_tensor_bytes"] = Metric.unavailable("bytes", f"{self._context.device.type}-real", reason)
        return Measurement(
            metrics,
            phases_of(self._context, traced, self._cuda.peaks_by_phase),
            samples_json(sampler, self._context, traced, details),
            self._gpu_watch.facts(),
            events=events,
        )

    def _warm_up(self, work: StepWork) -> None:
        phase = self._context.phase
        self._send(PhaseEntered("load"))
        with phase("load"):
            work.load()
        self._send(PhaseEntered("warm-up"))
        with phase("warm-up"):
            phase.enabled = False
            for _ in range(self._task.warmup_steps):
                work.step()
            phase.enabled = True

    def _time_steps(self, work: StepWork, spec: WorkloadSpec) -> dict[str, Metric]:
        on_gpu = self._context.device.type == "cuda"
        for number in range(self._task.timed_steps):
            self._send(PhaseEntered(f"{TIMED_PREFIX}{number + 1}/{self._task.timed_steps}"))
            self._context.phase.enabled = not on_gpu  # waiting at each phase would slow a GPU's step
            self._step_times_s.append(self._timed(work))
            self._gpu_watch.look()
        self._context.phase.enabled = True
        if on_gpu:
            with no_collection(), self._context.phase.listening(self._cuda.phase):
                work.step()
        median_s = statistics.median(self._step_times_s)
        source = f"perf_counter, median of {len(self._step_times_s)} steps"
        units, throughput = units_per_step(work), throughput_metric(work, spec)
        return {
            "step_time_s": Metric(value=median_s, unit="s", source=source, quality="measured"),
            throughput: Metric(value=units / median_s, unit="1/s", source=source, quality="measured"),
        } | dict(work.metrics())

    def _timed(self, work: StepWork) -> float:
        with no_collection():
            self._context.synchronize()
            start_s = time.perf_counter()
            work.step()
            self._context.synchronize()
            return time.perf_counter() - start_s

    def _read_samples(self) -> tuple[int | None, ...]:
        return (self._rss.read(), *self._gpu.sample())

    def _sampled(self, sampler: Sampler) -> dict[str, Metric]:
        ratio = sampler.cpu_s / (sampler.times_s[-1] - sampler.times_s[0])
        return {"sampler_cpu_ratio": Metric(value=ratio, unit="ratio", source="thread_time", quality="measured")}

    def _per_step(self, totals: dict[str, Metric], kind: str) -> dict[str, Metric]:
        """Divide totals by the steps that ran while the meters were open; a whole training is one piece of work."""
        on_gpu = self._context.device.type == "cuda"  # where one more step runs, untimed, with its phases
        steps = len(self._step_times_s) + on_gpu if kind == "step" else 1
        return {
            name: total if total.value is None else total.model_copy(update={"value": total.value / steps})
            for name, total in totals.items()
        }

    def _check_sampler(self, work: StepWork) -> dict[str, Metric]:
        """Return the median ratio over pairs of blocks with and without the sampler; their order alternates."""
        pairs = self._task.sampler_check_pairs
        if not pairs:
            return {}
        self._send(PhaseEntered("sampler check"))
        self._context.phase.enabled = False
        steps = max(1, round(_CHECK_BLOCK_S / statistics.median(self._step_times_s)))

        def block(with_sampler: bool) -> float:
            meter = Sampler(self._read_samples, 1 / self._task.sample_hz) if with_sampler else contextlib.nullcontext()
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


def phases_of(
    context: Context, traced: Traced | None, cuda_peaks: Mapping[str, Mapping[str, int]] = MappingProxyType({})
) -> dict[str, Phase]:
    """Return time, traced peak and torch's own CUDA peaks by phase."""
    spans = context.phase.spans
    peaks = traced.breakdown.by_phase if traced else {}
    names = dict.fromkeys([*(span.name for span in spans), *(name for name in peaks if name != OUTSIDE)])
    return {
        name: Phase(
            duration_s=context.phase.total_s(name),
            count=sum(span.name == name for span in spans),
            peak_tensor_bytes=peaks.get(name),
            **{f"peak_{kind}_bytes": peak for kind, peak in cuda_peaks.get(name, {}).items()},
        )
        for name in names
    }


def samples_json(
    sampler: Sampler | None, context: Context, traced: Traced | None, details: JsonObject | None = None
) -> JsonObject:
    """Return what the report draws: RAM and GPU memory over time, live bytes over the traced step, and details."""
    series: JsonObject = {"columns": ["rss_bytes", "nvml_process_bytes", "nvml_device_bytes"]}
    if sampler:
        series |= {"times_s": [round(time_s, 4) for time_s in sampler.times_s], "rows": sampler.rows}
    series["phases"] = [span._asdict() for span in context.phase.spans]
    series["traced"] = None
    if traced:
        series["traced"] = traced.breakdown.timeline.to_dict() | {"by_module": traced.breakdown.by_module}
    if details is not None:
        series["details"] = details
    return series

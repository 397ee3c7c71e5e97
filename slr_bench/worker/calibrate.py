"""Calibrates a GPU: measures operators one by one, and records the allocator's history over steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from slr_bench.errors import UnsupportedSettingError
from slr_bench.execute.job import NO_CUDA, CalibrateOperators, CalibrateSteps, Job, JsonObject, PhaseEntered, Send
from slr_bench.grid.workload import StepWork
from slr_bench.probes.nvml import GpuReading
from slr_bench.worker.calibration_gpu import KINDS, Counters, Gpu, TorchGpu, plain_history
from slr_bench.worker.context import open_work
from slr_bench.worker.operator_cases import CASES, OperatorCase, rule_of
from slr_bench.worker.traced_step import no_collection


def calibrate_operators(job: Job[CalibrateOperators], send: Send) -> JsonObject:
    """Measure every operator case on this machine's GPU.

    Raises:
        UnsupportedSettingError: There is no GPU.
    """
    return measured_operators(_open_gpu(), CASES, lambda title: send(PhaseEntered(title)))


def calibrate_steps(job: Job[CalibrateSteps], send: Send) -> JsonObject:
    """Record the steps of one setting on this machine's GPU.

    Raises:
        UnsupportedSettingError: There is no GPU.
    """
    gpu = _open_gpu()
    spec, settings, context = open_work(job.task.work, job.device)
    return recorded_steps(gpu, lambda: spec.build(settings, context), job.task.warmup_steps)


def _open_gpu() -> TorchGpu:
    if not torch.cuda.is_available():
        raise UnsupportedSettingError(NO_CUDA)
    return TorchGpu()


def measured_operators(
    gpu: Gpu, cases: Sequence[OperatorCase], on_progress: Callable[[str], None] = lambda title: None
) -> JsonObject:
    """What the first CUDA call takes, and each operator's memory beside its inputs and results."""
    idle = gpu.reading()
    gpu.begin()
    first = beside_the_allocator(gpu, idle)
    rows = []
    for case in cases:
        on_progress(case.title)
        rows.append(_measured(gpu, case))
    return {"facts": gpu.facts(), "first_call": first, "operators": rows}


def recorded_steps(gpu: Gpu, build: Callable[[], StepWork], warmup_steps: int) -> JsonObject:
    """The allocator's history from the first byte on, over the warm-up and one steady step, and the peaks measured."""
    idle = gpu.reading()
    gpu.record_history()
    work = build()
    work.load()
    with no_collection():
        for _ in range(warmup_steps):
            work.step()
    before = gpu.counters()
    gpu.reset_peaks()
    with no_collection():
        work.step()
    steady = gpu.counters()
    history = plain_history(gpu.snapshot())
    return {
        "facts": gpu.facts(),
        "history": history,
        "peaks": {name: max(before[place], steady[place]) for place, name in _PEAKS},
        "steady_peaks": {name: steady[place] for place, name in _PEAKS},
        "nvml_process_bytes": gpu.reading().process_bytes,
        "context": beside_the_allocator(gpu, idle),
    }


_PEAKS = [(Counters._fields.index(f"peak_{kind}_bytes"), f"peak_{kind}_bytes") for kind in KINDS]


def beside_the_allocator(gpu: Gpu, idle: GpuReading) -> JsonObject:
    """Bytes that the process has beside what torch's allocator reserved: context, kernels, libraries.

    ``{bytes, source, reason}``: by the process where the driver books it, else by the device over ``idle``.
    """
    now, reserved = gpu.reading(), gpu.counters().reserved_bytes
    if now.process_bytes is not None and now.process_bytes >= reserved:
        return {"bytes": now.process_bytes - reserved, "source": "NVML process", "reason": None}
    others = gpu.others()
    if others:
        reason = f"the driver does not tell this process's memory, and {len(others)} other processes are on the GPU"
    elif now.device_bytes is None or idle.device_bytes is None:
        reason = gpu.why()
    elif now.device_bytes - idle.device_bytes < reserved:
        reason = "the device was not idle before: it holds less over that than torch's allocator"
    else:
        alone = "GPU exclusive" if others is not None else "GPU taken as exclusive: its other processes are unknown"
        size = now.device_bytes - idle.device_bytes - reserved
        return {"bytes": size, "source": f"NVML device over idle ({alone})", "reason": None}
    return {"bytes": None, "source": "NVML", "reason": reason}


def _measured(gpu: Gpu, case: OperatorCase) -> JsonObject:
    """Called twice: what the first call leaves is kept, what the second needs on top of its results is workspace."""
    rule = rule_of(case)
    row = {
        "operator": case.name,
        "precision": case.precision,
        "layout": case.layout,
        "is_product": case.is_product,
        "expected_bytes": rule.expected_bytes,
        "most_bytes": rule.most_bytes,
    }
    try:
        call = gpu.call(case)
        before = gpu.counters().requested_bytes
        made = call.run()
        kept = gpu.counters().requested_bytes - before - made
        call.drop()
        gpu.reset_peaks()
        before = gpu.counters().requested_bytes
        made = call.run()
        workspace = gpu.counters().peak_requested_bytes - before - made
    except (RuntimeError, torch.OutOfMemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        return {**row, "kept_bytes": None, "workspace_bytes": None, "reason": reason}
    return {**row, "kept_bytes": kept, "workspace_bytes": workspace, "reason": None}

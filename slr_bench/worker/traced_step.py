"""Traces one steady step: every byte at the dispatcher, compared with the allocator's own events.

`profile_step` does so for ``slr-bench profile``, with the allocator logged from the first byte on.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from slr_bench.errors import UnsupportedSettingError
from slr_bench.execute.job import TRACE_PHASE, Job, JsonObject, PhaseEntered, ProfileStep, Send
from slr_bench.grid.workload import StepWork
from slr_bench.live_bytes import LOADER
from slr_bench.record import SPLIT, Metric
from slr_bench.trace.allocations import (
    Alloc,
    CpuAllocations,
    CudaAllocations,
    Event,
    why_no_cuda_log,
)
from slr_bench.trace.allocator_check import AllocatorPeak, disturbance_bytes, match_peak
from slr_bench.trace.fake.tensors import refusals_explained
from slr_bench.trace.recorder import Recorder, with_unnamed
from slr_bench.trace.step_trace import BEFORE, Breakdown, Floor, StepTrace, breakdown, operator_floor
from slr_bench.worker.context import Context, open_work

ALLOCATOR_SOURCES = {"cpu": "profiler memory events", "cuda": "caching allocator history"}


class Traced(NamedTuple):
    """A recorded steady step and its analysis."""

    step: StepTrace
    breakdown: Breakdown
    floor: Floor
    allocator: AllocatorPeak | None
    """None for fake tensors, which allocate nothing."""


@contextmanager
def no_collection() -> Iterator[None]:
    """Collect reference cycles first and turn the collector off: earlier garbage is no part of the step."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def why_no_log(context: Context) -> str | None:
    """Return why there is no allocator to check against, or None if there is one."""
    if context.is_fake:
        return "fake tensors allocate nothing to check against"
    return why_no_cuda_log() if context.device.type == "cuda" else None


def new_allocations(context: Context) -> CpuAllocations | CudaAllocations | None:
    """Return the allocator's log for this device, not yet open, or None if :func:`why_no_log` gives a reason."""
    if why_no_log(context) is not None:
        return None
    return CudaAllocations(context.device) if context.device.type == "cuda" else CpuAllocations()


def trace_step(work: StepWork, context: Context) -> Traced:
    """Record one steady step, after the same step without a recorder.

    The allocator's log covers the step alone; the addresses of the state are taken from its tensors. (``slr-bench
    profile`` has a log that goes back to the first allocation.)
    """
    untraced, log = new_allocations(context), new_allocations(context)
    if untraced:
        with untraced:
            _run_untraced(work, context, untraced)
    with log or contextlib.nullcontext():
        step, loader = recorded_step(work, context, log)
    found = summed_up(step, loader, [*_state_events(step, loader), *log.events] if log else None)
    if not (untraced and log and found.allocator):
        return found
    more = disturbance_bytes([*untraced.events, *log.events])
    return found._replace(allocator=replace(found.allocator, disturbance_bytes=more))


def _run_untraced(work: StepWork, context: Context, log: CpuAllocations | CudaAllocations) -> None:
    """Run a step for :func:`~slr_bench.trace.allocator_check.disturbance_bytes`; it must not be the first one."""
    context.phase.enabled = False
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        work.step()  # DDP makes its buckets anew in its second step
    with no_collection():
        log.untraced_begins()
        work.step()


def recorded_step(work: StepWork, context: Context, log: Any) -> tuple[StepTrace, dict[int, int]]:
    """Run the step under a recorder; also return the sizes of what the loader holds, by address."""
    context.phase.enabled = False
    with no_collection():
        state = with_unnamed(work.tensors(), context.device, context.is_fake, context.others)
        loader = {} if context.is_fake else _addresses(state.get(LOADER, ()))
        rules = context.cuda_rules
        recorder = Recorder(
            context.device, state, context.is_fake, log.mark if log else None, rules.is_on_host if rules else None
        )
        del state
        if log:
            log.step_begins()
        with context.phase.listening(recorder.phase), recorder:
            work.step()
    return recorder.step_trace, loader


def summed_up(step: StepTrace, loader: dict[int, int], events: list[Event] | None) -> Traced:
    """Return the analysis of a recording."""
    floor = operator_floor(step)
    peak = None
    if events is not None:
        peak = match_peak(events, step, frozenset(loader))
    return Traced(step, breakdown(step), floor, peak)


def _addresses(tensors: Any) -> dict[int, int]:
    storages = [tensor.untyped_storage() for tensor in tensors]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def _state_events(step: StepTrace, loader: dict[int, int]) -> Iterator[Alloc]:
    for storage in step.storages:
        if storage.born == BEFORE and storage.address:
            yield Alloc(storage.address, storage.size_bytes, None)
    for address, size in loader.items():
        yield Alloc(address, size, None)


def trace_metrics(traced: Traced, context: Context) -> dict[str, Metric]:
    """Return the metrics of a traced step. Their source says which of them may be compared."""
    source = context.source

    def exact(value: float, unit: Any, source: str = source) -> Metric:
        return Metric(value=value, unit=unit, source=source, quality="exact")

    floor_bytes = traced.floor.floor_bytes
    metrics = {
        "peak_tensor_bytes": exact(traced.breakdown.peak_bytes, "bytes"),
        "floor_bytes": exact(floor_bytes, "bytes"),
        "flops_per_step": exact(traced.step.flops, "1", "formulas of products, convolutions and attention"),
    }
    if floor_bytes:
        split = ", ".join(traced.step.split_modules)
        how = f"{source}{SPLIT}{split}" if split else source
        metrics["peak_over_floor"] = exact(traced.breakdown.peak_bytes / floor_bytes, "1", how)
    if context.device.type == "cpu":
        name = ALLOCATOR_SOURCES["cpu"]
        metrics["peak_cpu_allocator_bytes"] = (
            exact(traced.allocator.peak_bytes, "bytes", name)
            if traced.allocator
            else Metric.unavailable("bytes", name, "fake tensors allocate nothing")
        )
    return metrics


_COUNTERS = ("allocated_bytes", "requested_bytes", "reserved_bytes")


def profile_step(job: Job[ProfileStep], send: Send) -> JsonObject:
    """Attribute the peak of one setting; return the JSON object of ``slr-bench profile``.

    Raises:
        UnsupportedSettingError: The workload is not a step, or the device is CUDA and torch sees none.
    """
    spec, settings, context = open_work(job.task.work, job.device)
    if spec.kind != "step":
        raise UnsupportedSettingError(
            f"workload {spec.name} is a whole training; profile looks at one step: name one of steps with --workload"
        )
    log = new_allocations(context)
    with log or contextlib.nullcontext():
        send(PhaseEntered("build"))
        work = spec.build(settings, context)
        with refusals_explained(), context.tensors():
            step, loader = _recorded(job.task.warmup_steps, send, work, context, log)
        counters = _cuda_counters(context)
    send(PhaseEntered("attribution"))
    found = summed_up(step, loader, log.events if log else None)
    return profile_json(found, context) | {"cuda": counters}


def _recorded(
    warmup_steps: int, send: Send, work: StepWork, context: Context, log: Any
) -> tuple[StepTrace, dict[int, int]]:
    send(PhaseEntered("load"))
    work.load()
    send(PhaseEntered("warm-up"))
    for _ in range(warmup_steps):
        work.step()
    send(PhaseEntered(TRACE_PHASE))
    if log:
        _run_untraced(work, context, log)
    if context.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(context.device)
    return recorded_step(work, context, log)


def _cuda_counters(context: Context) -> dict[str, int] | None:
    """Return torch's own peaks over the step, or None if it did not run on a GPU."""
    if context.device.type != "cuda" or context.is_fake:
        return None
    torch.cuda.synchronize(context.device)
    stats = torch.cuda.memory_stats(context.device)
    return {f"peak_{name}": int(stats[f"{name}.all.peak"]) for name in _COUNTERS}


def profile_json(traced: Traced, context: Context) -> JsonObject:
    """Return the part of the ``profile`` object that the child knows."""
    found, floor, allocator = traced.breakdown, traced.floor, traced.allocator
    return {
        "device": context.device.type,
        "source": context.source,
        "peak_tensor_bytes": found.peak_bytes,
        "floor_bytes": floor.floor_bytes,
        "floor": {
            "operator": floor.operator,
            "module": floor.module,
            "phase": floor.phase,
            "split_modules": list(traced.step.split_modules),
        },
        "flops_per_step": traced.step.flops,
        "operators": len(traced.step.operators),
        "residual_bytes": allocator.residual_bytes if allocator else None,
        "residual_reason": why_no_log(context),
        "by_category": found.by_category,
        "by_module": [
            {"module": name, "bytes": sum(parts.values()), "by_category": parts}
            for name, parts in found.by_module.items()
        ],
        "by_phase": found.by_phase,
        "top": [tensor.to_dict() for tensor in found.top],
        "timeline": found.timeline.to_dict(),
        "allocator": None
        if allocator is None
        else {
            "source": ALLOCATOR_SOURCES[context.device.type],
            "peak_bytes": allocator.peak_bytes,
            "operator": allocator.operator,
            "by_category": allocator.by_category,
            "workspace": [{"operator": name, "bytes": count} for name, count in allocator.workspace.items()],
            "unmatched_bytes": allocator.unmatched_bytes,
            "unmatched": [{"operator": name, "bytes": count} for name, count in allocator.unmatched.items()],
            "missing_bytes": allocator.missing_bytes,
            "disturbance_bytes": allocator.disturbance_bytes,
            "loader_bytes": allocator.loader_bytes,
            "named_ratio": 1 - allocator.unmatched_bytes / allocator.peak_bytes if allocator.peak_bytes else None,
        },
    }

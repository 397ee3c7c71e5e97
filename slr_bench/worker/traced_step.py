"""Traces one steady step: every byte at the dispatcher, compared with the allocator's own events."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from slr_bench.grid.workload import StepWork
from slr_bench.live_bytes import LOADER
from slr_bench.record import SPLIT, Metric
from slr_bench.trace.allocations import Alloc, CpuAllocations, CudaAllocations, Event, why_no_cuda_log
from slr_bench.trace.allocator_check import AllocatorPeak, match_peak
from slr_bench.trace.attribution import Breakdown, Floor, breakdown, operator_floor
from slr_bench.trace.recorder import Recorder, with_unnamed
from slr_bench.trace.recording import BEFORE, StepTrace
from slr_bench.worker.context import Context

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
    """Record one steady step.

    The allocator's log covers the step alone; the addresses of the state are taken from its tensors. (``slr-bench
    profile`` has a log that goes back to the first allocation.)
    """
    log = new_allocations(context)
    with log or contextlib.nullcontext():
        step, loader = recorded_step(work, context, log)
    return summed_up(step, loader, [*_state_events(step, loader), *log.events] if log else None)


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


def _state_events(step: StepTrace, loader: dict[int, int]) -> Iterator[Event]:
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

"""Profiles one steady step: attributes every byte at its peak, with the allocator logged from the first byte on."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from slr_bench.errors import UnsupportedSettingError
from slr_bench.execute.job import TRACE_PHASE, Job, JsonObject, PhaseEntered, ProfileStep, Send
from slr_bench.grid.workload import StepWork
from slr_bench.trace.fake.tensors import refusals_explained
from slr_bench.trace.recording import StepTrace
from slr_bench.worker.context import Context, open_work
from slr_bench.worker.traced_step import (
    ALLOCATOR_SOURCES,
    Traced,
    new_allocations,
    recorded_step,
    summed_up,
    why_no_log,
)

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
            "loader_bytes": allocator.loader_bytes,
            "named_ratio": 1 - allocator.unmatched_bytes / allocator.peak_bytes if allocator.peak_bytes else None,
        },
    }

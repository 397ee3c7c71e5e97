"""The child of ``slr-bench profile``: one steady step on the record, the allocator logged from the first byte on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import torch

from slr_bench.errors import UnsupportedSettingError
from slr_bench.grid.workload import StepWork
from slr_bench.run.cell_monitor import TRACE_PHASE
from slr_bench.trace.fake.tensors import refusals_explained
from slr_bench.trace.recorder import Recorder
from slr_bench.worker.context import Context, open_job
from slr_bench.worker.result import timeline_json
from slr_bench.worker.traced_step import (
    ALLOCATOR_SOURCES,
    Traced,
    new_allocations,
    recorded_step,
    summed_up,
    why_no_log,
)

Send = Callable[[dict[str, Any]], None]

_COUNTERS = ("allocated_bytes", "requested_bytes", "reserved_bytes")


def profile_cell(job: dict[str, Any], send: Send) -> dict[str, Any]:
    """Attribute the peak of one setting. Gives the JSON object of ``slr-bench profile`` under ``profile``.

    Raises:
        UnsupportedSettingError: not a step, or CUDA asked for where there is none.
    """
    spec, settings, context = open_job(job)
    if spec.kind != "step":
        raise UnsupportedSettingError(
            f"workload {spec.name} is a whole training; profile looks at one step: name one of steps with --workload"
        )
    start_s = time.perf_counter()
    log = new_allocations(context)
    with log or contextlib.nullcontext():
        send({"phase": "build"})
        work = spec.build(settings, context)
        with refusals_explained(), context.tensors():
            recorder, loader = _recorded(job, send, work, context, log)
        counters = _cuda_counters(context)
    send({"phase": "attribution"})
    found = summed_up(recorder, loader, log.events if log else None)
    profile = profile_json(found, context) | {"cuda": counters}
    return {"metrics": {}, "phases": {}, "samples": None, "profile": profile, "work_s": time.perf_counter() - start_s}


def _recorded(
    job: dict[str, Any], send: Send, work: StepWork, context: Context, log: Any
) -> tuple[Recorder, dict[int, int]]:
    send({"phase": "load"})
    work.load()
    send({"phase": "warm-up"})
    for _ in range(job["warmup_steps"]):
        work.step()
    send({"phase": TRACE_PHASE})
    if context.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(context.device)
    return recorded_step(work, context, log)


def _cuda_counters(context: Context) -> dict[str, int] | None:
    """Torch's own peaks over the step; None where it ran elsewhere."""
    if context.device.type != "cuda" or context.is_fake:
        return None
    torch.cuda.synchronize(context.device)
    stats = torch.cuda.memory_stats(context.device)
    return {f"peak_{name}": int(stats[f"{name}.all.peak"]) for name in _COUNTERS}


def profile_json(traced: Traced, context: Context) -> dict[str, Any]:
    """What the child knows of DESIGN's ``profile`` object."""
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
            "split_modules": list(traced.story.split_modules),
        },
        "flops_per_step": traced.story.flops,
        "operators": len(traced.story.operators),
        "residual_bytes": allocator.residual_bytes if allocator else None,
        "residual_reason": why_no_log(context),
        "by_category": found.by_category,
        "by_module": [
            {"module": name, "bytes": sum(parts.values()), "by_category": parts}
            for name, parts in found.by_module.items()
        ],
        "by_phase": found.by_phase,
        "top": found.top,
        "timeline": timeline_json(found.timeline),
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

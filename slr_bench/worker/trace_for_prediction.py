"""Traces steps on fake tensors for ``predict`` and ``plan``, with the requests of each to an allocator."""

from __future__ import annotations

import itertools
import re
import traceback
from dataclasses import replace
from typing import Final, NamedTuple

from slr_bench.errors import SlrBenchError, UnsupportedSettingError
from slr_bench.execute.job import Job, JsonObject, Send, StepToTrace, StepTraced, TraceSteps
from slr_bench.grid.workload import StepWork, units_per_step
from slr_bench.live_bytes import LOADER
from slr_bench.trace.derived_steps import (
    TracedStep,
    interpolate,
    kept_without_name,
    last_micro_batch,
    make_steady,
    micro_batch_starts,
    name_state,
    repeat_micro_batches,
)
from slr_bench.trace.fake.cuda_rules import CUDA_RULES
from slr_bench.trace.fake.tensors import CpuFakeMode, defer_compiler, place_of, refusals_explained, unfilled
from slr_bench.trace.fake.workspaces import WorkspaceLog, host_copies_of, workspace_of
from slr_bench.trace.requests import lives, requests, unmodelled
from slr_bench.trace.step_trace import BEFORE, StepTrace
from slr_bench.worker.context import Context, open_work
from slr_bench.worker.traced_step import profile_json, recorded_step, summed_up

defer_compiler()  # before a workload is imported, whose libraries may import the compiler

_OF_CUDNN: Final = re.compile("convolution|cudnn")
SMALL_BYTES: Final = 256
"""A step that keeps no more (its losses) is traced once. Its previous ones then count until the end of the step."""


def trace_steps(job: Job[TraceSteps], send: Send) -> None:
    """Trace the job's steps one after the other: what torch learns of one operator serves all.

    Steps of one ``family`` differ in ``samples`` only. Steps between two traced ones of a family are interpolated
    (``trace.derived_steps``). Each step is reported by a message of its own.
    """
    family, traced = None, list[_Traced]()
    for number, step in enumerate(job.task.steps):
        if step.family is None or step.family != family:
            family, traced = step.family, []
        try:
            send(StepTraced(number, trace_one(step, traced)))
        except SlrBenchError as error:
            send(StepTraced(number, refusal=str(error)))
        except Exception as error:  # noqa: BLE001 - a workload may fail in any way; it costs no other step
            traceback.print_exc()
            text = f"the step failed with {type(error).__name__}: {' '.join(str(error).split())[:400]}"
            cure = "mend the step or its setting; slr-bench profile runs it on real tensors"
            send(StepTraced(number, refusal=f"{text} ({place_of(error)}); {cure}"))


class _Traced(NamedTuple):
    traced: TracedStep
    workload: str
    context: Context


def trace_one(step: StepToTrace, traced: list[_Traced] | None = None) -> JsonObject:
    """Return the profile of a steady step, derived from a first step of at most two micro-batches.

    ``trace.derived_steps`` says how. It has ``requests`` (``trace.requests``) and, under CUDA rules, ``unmodelled``. If
    two of ``traced`` enclose the step, it is interpolated from them; else it is traced and added to them.

    Raises:
        UnsupportedSettingError: Fake tensors cannot run the step, or its micro-batches cannot be distinguished.
    """
    traced = [] if traced is None else traced
    for low, high in itertools.permutations(traced, 2):
        samples = step.samples
        if samples is not None and low.traced.samples < samples < high.traced.samples:
            interpolated = interpolate(low.traced, high.traced, samples)
            if interpolated is not None:
                found = _summed_up(low._replace(traced=interpolated), step.more_micro_batches)
                return found | {"told_from_samples": [low.traced.samples, high.traced.samples]}
    traced.append(_trace(step))
    return _summed_up(traced[-1], step.more_micro_batches)


def _trace(step: StepToTrace) -> _Traced:
    spec, settings, context = open_work(step.work, "cpu")
    assert spec.kind == "step", "whole trainings are refused before"
    with unfilled():
        work = spec.build(settings, context)
    log = WorkspaceLog(workspace_of if context.cuda_rules else host_copies_of)
    assert isinstance(context.fake_mode, CpuFakeMode), "predictions are made on fake tensors"
    context.fake_mode.on_operator = log
    with refusals_explained(), context.tensors():
        work.load()
        trace, _ = recorded_step(work, context, log)
        name_state(trace, work.tensors())
        context.fake_mode.on_operator = None
        _see_what_is_replaced(work, context, trace)
    traced = TracedStep(
        samples=step.samples or 0,
        step=trace,
        needs=log.needs,
        samples_per_step=units_per_step(work),
        loader_bytes=sum(tensor.nbytes for tensor in work.tensors().get(LOADER, ())),
    )
    return _Traced(traced, spec.name, context)


def _see_what_is_replaced(work: StepWork, context: Context, step: StepTrace) -> None:
    """Trace a second step if the first keeps more than its losses, to see when its tensors are replaced."""
    kept = kept_without_name(step)
    if sum(storage.size_bytes for storage in kept.values()) <= SMALL_BYTES:
        return
    second, _ = recorded_step(work, context, None)
    names = zip(step.operators, second.operators, strict=False)
    equal = next((n for n, (one, other) in enumerate(names) if one.name != other.name), len(second.operators))
    more = len(step.operators) - len(second.operators)  # what makes the optimizer's state runs in the first step only
    for storage in second.storages:
        if storage.born == BEFORE and storage.key in kept and storage.died is not None:
            kept[storage.key].replaced_at = storage.died + (more if storage.died >= equal else 0)


def _summed_up(one: _Traced, more: int) -> JsonObject:
    context, needs = one.context, one.traced.needs
    step = replace(one.traced.step, storages=[replace(storage) for storage in one.traced.step.storages])
    traced = len(micro_batch_starts(step))
    if more and traced < 2:
        raise UnsupportedSettingError(
            f"workload {one.workload}: {traced} micro-batches were seen to begin in the phase load, 2 were traced; "
            "take each in phase('load'), or name no micro_batches in the spec"
        )
    repeat_micro_batches(step, more)
    first = lives(step)
    make_steady(step)
    found = profile_json(summed_up(step, {}, None), context)
    del found["timeline"]
    times = (traced + more) / traced if more else 1
    middle = last_micro_batch(step) if more else range(0)
    found["flops_per_step"] = round(found["flops_per_step"] * times)
    found["flops_by_dtype"] = {name: round(count * times) for name, count in step.flops_by_dtype.items()}
    found["samples_per_step"] = round(one.traced.samples_per_step * times)
    found["operators"] = len(step.operators) + more * len(middle)
    found["touched_bytes_per_step"] = step.touched_bytes
    found["loader_bytes"] = round(one.traced.loader_bytes * times)
    found["requests"] = requests(step, needs, first, lives(step))
    if context.cuda_rules is not None:
        found["cuda_rules"] = CUDA_RULES
        found["libraries"] = ["cudnn"] if any(_OF_CUDNN.search(operator.name) for operator in step.operators) else []
        found["unmodelled"] = [operator._asdict() for operator in unmodelled(needs)]
    return found

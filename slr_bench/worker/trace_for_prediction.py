"""The child of ``slr-bench predict`` and ``plan``: steps on fake tensors, and what each asks of an allocator."""

from __future__ import annotations

import itertools
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from slr_bench.errors import SlrBenchError, UnsupportedSettingError
from slr_bench.grid.workload import units_per_step
from slr_bench.live_bytes import LOADER
from slr_bench.trace.fake.cpu_rules import CpuFakeMode
from slr_bench.trace.fake.cuda_rules import CUDA_RULES
from slr_bench.trace.fake.tensors import place_of, refusals_explained, unfilled
from slr_bench.trace.fake.workspaces import host_copies_of, workspace_of
from slr_bench.trace.interpolate import Told, told_between
from slr_bench.trace.requests import WorkspaceLog, lives, requests, unmodelled
from slr_bench.trace.steady import (
    last_micro_batch,
    make_steady,
    micro_batch_starts,
    name_state,
    repeat_micro_batches,
)
from slr_bench.worker.context import Context, open_job
from slr_bench.worker.profile import profile_json
from slr_bench.worker.traced_step import recorded_step, summed_up

Send = Callable[[dict[str, Any]], None]


def foreseen_cells(job: dict[str, Any], send: Send) -> dict[str, Any]:
    """Tell each of the job's ``steps``, one after the other: what torch learns of one operator serves all.

    Steps of one ``family`` differ in nothing but ``samples``, their micro-batch; between two traced ones of them others
    are told without tracing (``trace.between``). Sends for each ``number`` either ``foreseen`` or, as ``refused``, why
    not.
    """
    start_s = time.perf_counter()
    family, traced = None, list[_Traced]()
    for number, step in enumerate(job["steps"]):
        if step["family"] is None or step["family"] != family:
            family, traced = step["family"], []
        try:
            send({"number": number, "foreseen": foreseen({**job, **step}, traced)})
        except SlrBenchError as error:
            send({"number": number, "refused": str(error)})
        except Exception as error:  # noqa: BLE001 - a workload may fail in any way; it costs no other step
            traceback.print_exc()
            text = f"the step failed with {type(error).__name__}: {' '.join(str(error).split())[:400]}"
            cure = "mend the step or its setting; slr-bench profile runs it on real tensors"
            send({"number": number, "refused": f"{text} ({place_of(error)}); {cure}"})
    return {"metrics": {}, "phases": {}, "samples": None, "work_s": time.perf_counter() - start_s}


class _Traced(NamedTuple):
    told: Told
    workload: str
    context: Context


def foreseen(job: dict[str, Any], traced: list[_Traced] | None = None) -> dict[str, Any]:
    """The profile of a steady step, told from the first one with at most two micro-batches (``trace.steady``).

    The job's setting has as many micro-batches as are traced; ``more_micro_batches`` come on top. With ``requests``
    (``trace.requests``), under CUDA rules with ``unmodelled``. Told from two of ``traced`` where they tell it, else
    traced and added to them.

    Raises:
        UnsupportedSettingError: a step that fake tensors cannot run, or whose micro-batches cannot be told apart.
    """
    traced = [] if traced is None else traced
    for low, high in itertools.permutations(traced, 2):
        samples = job["samples"]
        if low.told.samples < samples < high.told.samples:
            told = told_between(low.told, high.told, samples)
            if told is not None:
                found = _summed_up(low._replace(told=told), job["more_micro_batches"])
                return found | {"told_from_samples": [low.told.samples, high.told.samples]}
    traced.append(_trace(job))
    return _summed_up(traced[-1], job["more_micro_batches"])


def _trace(job: dict[str, Any]) -> _Traced:
    spec, settings, context = open_job(job)
    assert spec.kind == "step", "whole trainings are refused before"
    with unfilled():
        work = spec.build(settings, context)
    log = WorkspaceLog(workspace_of if context.cuda_rules else host_copies_of)
    assert isinstance(context.fake_mode, CpuFakeMode), "predictions are made on fake tensors"
    context.fake_mode.heard = log
    with refusals_explained(), context.tensors():
        work.load()
        recorder, _ = recorded_step(work, context, log)
        name_state(recorder, work.tensors())
    told = Told(
        samples=job.get("samples") or 0,
        story=recorder.story(),
        heard=log.heard,
        samples_per_step=units_per_step(work, spec)[0],
        loader_bytes=sum(tensor.nbytes for tensor in work.tensors().get(LOADER, ())),
    )
    return _Traced(told, spec.name, context)


def _summed_up(one: _Traced, more: int) -> dict[str, Any]:
    told, context = one.told, one.context
    story = replace(told.story, storages=[replace(storage) for storage in told.story.storages])
    traced = len(micro_batch_starts(story))
    if more and traced < 2:
        raise UnsupportedSettingError(
            f"workload {one.workload}: {traced} micro-batches were seen to begin in the phase load, 2 were traced; "
            "take each in phase('load'), or name no micro_batches in the spec"
        )
    repeat_micro_batches(story, more)
    first = lives(story)
    make_steady(story)
    found = profile_json(summed_up(story, {}, None), context)
    del found["timeline"]
    times = (traced + more) / traced if more else 1
    middle = last_micro_batch(story) if more else range(0)
    found["flops_per_step"] = round(found["flops_per_step"] * times)
    found["flops_by_dtype"] = {name: round(count * times) for name, count in story.flops_by_dtype.items()}
    found["samples_per_step"] = round(told.samples_per_step * times)
    found["operators"] = len(story.operators) + more * len(middle)
    found["touched_bytes_per_step"] = story.touched_bytes
    found["loader_bytes"] = round(told.loader_bytes * times)
    found["requests"] = requests(story, told.heard, first, lives(story))
    if context.cuda_rules is not None:
        found["cuda_rules"] = CUDA_RULES
        found["unmodelled"] = unmodelled(told.heard)
    return found

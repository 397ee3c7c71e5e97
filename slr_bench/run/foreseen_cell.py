"""The child of ``slr-bench predict`` and ``plan``: steps on fake tensors, and what each asks of an allocator."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import Any

from slr_bench.errors import SlrBenchError, UnsupportedSettingError
from slr_bench.run.context import open_job
from slr_bench.run.profile_cell import profile_json
from slr_bench.run.tracing import recorded_step, summed_up
from slr_bench.trace.cuda_rules import CUDA_RULES
from slr_bench.trace.fake import refusals_explained
from slr_bench.trace.requests import WorkspaceLog, lives, peak_with_workspaces, requests, unmodelled
from slr_bench.trace.rules import CpuFakeMode
from slr_bench.trace.steady import (
    last_micro_batch,
    make_steady,
    micro_batch_starts,
    name_state,
    repeat_micro_batches,
)
from slr_bench.trace.tracer import LOADER
from slr_bench.trace.workspaces import host_copies_of, workspace_of

Send = Callable[[dict[str, Any]], None]


def foreseen_cells(job: dict[str, Any], send: Send) -> dict[str, Any]:
    """Trace each of the job's ``steps``, one after the other: what torch learns of one operator serves all.

    Sends for each ``number`` either ``foreseen`` or, as ``refused``, why not.
    """
    start_s = time.perf_counter()
    for number, step in enumerate(job["steps"]):
        try:
            send({"number": number, "foreseen": foreseen({**job, **step})})
        except SlrBenchError as error:
            send({"number": number, "refused": str(error)})
        except Exception as error:  # noqa: BLE001 - a workload may fail in any way; it costs no other step
            traceback.print_exc()
            send({"number": number, "refused": f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]})
    return {"metrics": {}, "phases": {}, "samples": None, "work_s": time.perf_counter() - start_s}


def foreseen(job: dict[str, Any]) -> dict[str, Any]:
    """The profile of a steady step, told from the first one with at most two micro-batches (``trace.steady``).

    The job's setting has as many micro-batches as are traced; ``more_micro_batches`` come on top. Under CUDA rules with
    ``requests`` (``trace.requests``) and ``unmodelled``.

    Raises:
        UnsupportedSettingError: a step that fake tensors cannot run, or whose micro-batches cannot be told apart.
    """
    spec, settings, context = open_job(job)
    assert spec.kind == "step", "whole trainings are refused before"
    work = spec.build(settings, context)
    log = WorkspaceLog(workspace_of if context.cuda_rules else host_copies_of)
    assert isinstance(context.fake_mode, CpuFakeMode), "predictions are made on fake tensors"
    context.fake_mode.heard = log
    with refusals_explained(), context.tensors():
        work.load()
        recorder, _ = recorded_step(work, context, log)
        name_state(recorder, work.tensors())
    traced, more = len(micro_batch_starts(recorder)), job["more_micro_batches"]
    if more and traced < 2:
        raise UnsupportedSettingError(
            f"workload {spec.name}: {traced} micro-batches were seen to begin in the phase load, 2 were traced; take "
            "each in phase('load'), or name no micro_batches in the spec"
        )
    repeat_micro_batches(recorder, more)
    first = lives(recorder)
    make_steady(recorder)
    found = profile_json(summed_up(recorder, {}, None), context)
    del found["timeline"]
    times = (traced + more) / traced if more else 1
    middle = last_micro_batch(recorder) if more else range(0)
    found["flops_per_step"] = round(found["flops_per_step"] * times)
    found["flops_by_dtype"] = {name: round(count * times) for name, count in recorder.flops_by_dtype.items()}
    found["clips_per_step"] = round(work.clips_per_step * times)
    found["operators"] = len(recorder.operators) + more * len(middle)
    found["touched_bytes_per_step"] = recorder.touched_bytes
    found["loader_bytes"] = round(sum(tensor.nbytes for tensor in work.tensors().get(LOADER, ())) * times)
    found["peak_with_workspaces_bytes"] = peak_with_workspaces(recorder, log)
    if context.cuda_rules is not None:
        found["cuda_rules"] = CUDA_RULES
        found["requests"] = requests(recorder, log, first, lives(recorder))
        found["unmodelled"] = unmodelled(log)
    return found

"""The child: one job -> workload -> probes -> one result line. Runs in a process that nothing else shares."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from slr_bench.errors import SlrBenchError, UnsupportedSettingError
from slr_bench.oom import OutOfMemoryKind, out_of_memory_kind
from slr_bench.record import Outcome

Send = Callable[[dict[str, Any]], None]

_OUTCOMES = {None: Outcome.CRASH, OutOfMemoryKind.GPU: Outcome.OOM_GPU, OutOfMemoryKind.HOST: Outcome.OOM_HOST}


def main() -> None:
    """``python -m slr_bench.worker.main RESULT_FD JOB_JSON``: how a spawned cell begins."""
    run_job(json.loads(sys.argv[2]), int(sys.argv[1]))


def run_job(job: dict[str, Any], result_descriptor: int) -> None:
    """Carry out a job and write JSON lines to the runner; the last one holds ``result``."""

    def send(message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(result_descriptor, data) :]

    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_DATA)
    if job["ram_limit_bytes"] is not None:
        # Not RLIMIT_AS: CUDA reserves far more addresses than memory. Soft, so that the end can be told without it.
        resource.setrlimit(resource.RLIMIT_DATA, (job["ram_limit_bytes"], hard_limit))
    if job["op"] == "environment":
        send({"result": describe_environment(job)})
        return
    work_start = time.perf_counter()
    outcome, reason, measured = _measure_or_classify(job, send)
    resource.setrlimit(resource.RLIMIT_DATA, (soft_limit, hard_limit))
    send(
        {
            "result": {
                "outcome": outcome,
                "reason": reason,
                "environment": describe_environment(job),
                "work_s": measured.pop("work_s", time.perf_counter() - work_start),
                **measured,
            }
        }
    )


def describe_environment(job: dict[str, Any]) -> dict[str, Any]:
    """The child's environment."""
    from slr_bench.worker.context import resolve_device
    from slr_bench.worker.environment import collect_environment

    return collect_environment(resolve_device(job["device"]), job["isolation"])


def _measure_or_classify(job: dict[str, Any], send: Send) -> tuple[Outcome, str | None, dict[str, Any]]:
    """Every way a cell can end in its own process becomes an outcome with one line of reason."""
    nothing: dict[str, Any] = {"metrics": {}, "phases": {}, "samples": None}
    try:
        if job["op"] == "profile":
            from slr_bench.worker.profile import profile_cell as work
        elif job["op"] == "calibrate":
            from slr_bench.worker.calibrate import calibration_cell as work
        elif job["op"] == "foresee":
            from slr_bench.worker.trace_for_prediction import foreseen_cells as work
        else:
            from slr_bench.worker.measure import measure as work
        return Outcome.OK, None, work(job, send)
    except UnsupportedSettingError as error:
        return Outcome.UNSUPPORTED, _one_line(error), nothing
    except SlrBenchError as error:
        return Outcome.CRASH, _one_line(error), nothing
    except Exception as error:  # noqa: BLE001 - a cell may fail in any way; the traceback goes to its log
        kind = out_of_memory_kind(error, is_ram_limited=job["ram_limit_bytes"] is not None)
        if not isinstance(error, MemoryError):
            traceback.print_exc()
        reason = (
            "Python could not allocate memory (MemoryError)" if isinstance(error, MemoryError) else _one_line(error)
        )
        return _OUTCOMES[kind], reason, nothing


def _one_line(error: Exception) -> str:
    """Our own errors are sentences; of any other the class says half."""
    text = " ".join(str(error).split()) or "no message"
    return (text if isinstance(error, SlrBenchError) else f"{type(error).__name__}: {text}")[:500]


if __name__ == "__main__":
    main()

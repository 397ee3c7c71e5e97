"""The child: takes one job, runs the task in this process, and sends its messages and its result to the executor."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from importlib import import_module
from typing import Any, Final

from slr_bench.errors import SlrBenchError, UnsupportedSettingError
from slr_bench.execute.job import (
    MESSAGES,
    OLD_NAMES_VARIABLE,
    Job,
    JobResult,
    JsonObject,
    Measurement,
    PhaseEntered,
    Send,
    StepTraced,
)
from slr_bench.oom import OutOfMemoryKind, out_of_memory_kind
from slr_bench.record import Outcome

_OUTCOMES: Final = {None: Outcome.CRASH, OutOfMemoryKind.GPU: Outcome.OOM_GPU, OutOfMemoryKind.HOST: Outcome.OOM_HOST}


if os.environ.get(OLD_NAMES_VARIABLE):  # before anything of an older source tree is imported
    from slr_bench.worker.old_names import install

    install()


def main() -> None:
    """Run ``python -m slr_bench.worker.main RESULT_FD JOB_JSON``, which is how a spawned job begins."""
    run_job(Job.from_json(sys.argv[2]), int(sys.argv[1]))


def run_job(job: Job[Any], result_descriptor: int) -> None:
    """Do a job and write its messages as JSON lines; the last one is the result."""

    def send(message: PhaseEntered | StepTraced | JobResult) -> None:
        data = json.dumps(MESSAGES.dump_python(message)).encode() + b"\n"
        while data:
            data = data[os.write(result_descriptor, data) :]

    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_DATA)
    if job.ram_limit_bytes is not None:
        # Not RLIMIT_AS: CUDA reserves far more addresses than memory. A soft limit can be lifted to send the result.
        resource.setrlimit(resource.RLIMIT_DATA, (job.ram_limit_bytes, hard_limit))
    start_s = time.perf_counter()
    outcome, reason, payload = do_task(job, send)
    work_s = time.perf_counter() - start_s
    resource.setrlimit(resource.RLIMIT_DATA, (soft_limit, hard_limit))
    environment = describe_environment(job)
    if isinstance(payload, Measurement):
        send(JobResult(outcome, reason, environment, payload.work_s or work_s, measurement=payload))
    else:
        send(JobResult(outcome, reason, environment, work_s, report=payload))


def do_task(job: Job[Any], send: Send) -> tuple[Outcome, str | None, Measurement | JsonObject | None]:
    """Run the function of the task; turn every error into an outcome with one line of reason."""
    try:
        module, _, name = job.task.entry.partition(":")
        return Outcome.OK, None, getattr(import_module(module), name)(job, send)
    except UnsupportedSettingError as error:
        return Outcome.UNSUPPORTED, _one_line(error), None
    except SlrBenchError as error:
        return Outcome.CRASH, _one_line(error), None
    except Exception as error:  # noqa: BLE001 - a job may fail in any way; the traceback goes to its log
        kind = out_of_memory_kind(error, is_ram_limited=job.ram_limit_bytes is not None)
        if isinstance(error, MemoryError):
            return _OUTCOMES[kind], "Python could not allocate memory (MemoryError)", None
        traceback.print_exc()
        return _OUTCOMES[kind], _one_line(error), None


def describe_only(job: Job[Any], send: Send) -> None:
    """Do nothing: the environment is part of every result."""


def describe_environment(job: Job[Any]) -> JsonObject:
    """Return what the figures of this process depend on besides the setting."""
    from slr_bench.worker.context import collect_environment, resolve_device

    return collect_environment(resolve_device(job.device), job.isolation)


def _one_line(error: Exception) -> str:
    """Return the message of an error; only our own messages are complete without the class."""
    text = " ".join(str(error).split()) or "no message"
    return (text if isinstance(error, SlrBenchError) else f"{type(error).__name__}: {text}")[:500]


if __name__ == "__main__":
    main()

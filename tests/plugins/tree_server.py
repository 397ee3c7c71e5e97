"""The real fork server over cells that need no torch; their figures are those of the source tree they find."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

import slr_bench.worker.main as worker
from slr_bench.execute import fork_server
from slr_bench.execute.job import MESSAGES, DescribeEnvironment, Job, JobResult, Measurement
from slr_bench.record import Metric, Outcome

ENVIRONMENT = {"python": "3", "torch": "none", "torchvision": "none", "trace_rules": 1, "isolation": "fork"}
JOURNAL_VARIABLE = "QUICK_JOURNAL"
"""Names a file to which every cell that begins adds a line: whose figures it found, and the harness."""
NOISE = (1.0, 1.02, 0.98, 1.01, 0.99)


def tree_job(job: Job[Any], descriptor: int) -> None:
    """A cell: its bytes are its size and what the tree adds; its time is the tree's, scattered by the repeat."""

    def send(result: JobResult) -> None:
        os.write(descriptor, json.dumps(MESSAGES.dump_python(result)).encode() + b"\n")

    if isinstance(job.task, DescribeEnvironment):
        send(JobResult(Outcome.OK, None, ENVIRONMENT))
        return
    import toy.figures as figures

    name = os.path.basename(job.log_path).removesuffix(".log")
    with open(os.environ[JOURNAL_VARIABLE], "a") as journal:
        journal.write(f"{name} {figures.__file__} {os.path.realpath(worker.__file__)}\n")
    if figures.ENDING == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if figures.ENDING == "wait":
        time.sleep(600)
    size = next(iter(job.task.work.setting.values())) + figures.MORE
    time_s = figures.STEP_S * NOISE[int(name.rpartition("-")[2]) % 5]
    metrics = {
        "peak_tensor_bytes": Metric(value=size, unit="bytes", source="cpu-real", quality="exact"),
        "step_time_s": Metric(value=time_s, unit="s", source="cpu-real", quality="measured"),
    }
    reason = None if figures.ENDING == "ok" else f"{figures.ENDING} on purpose"
    send(JobResult(Outcome(figures.ENDING), reason, ENVIRONMENT, measurement=Measurement(metrics)))


if __name__ == "__main__":
    worker.run_job = tree_job
    del sys.argv[2:]  # nothing to preload
    fork_server.main()

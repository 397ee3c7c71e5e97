"""The real fork server over a cell that needs no torch: it starts in a tenth of a second."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from kill_point import guarded

import slr_bench.worker.main as worker
from slr_bench.execute import fork_server
from slr_bench.execute.job import MESSAGES, DescribeEnvironment, Job, JobResult, Measurement, PhaseEntered
from slr_bench.record import Metric, Outcome

ENVIRONMENT = {"python": "3", "torch": "none", "isolation": "fork", "device": "cpu"}
WORK_S = 0.004
JOURNAL_VARIABLE = "QUICK_JOURNAL"
"""Names a file to which every cell that begins adds a line."""


def quick_job(job: Job[Any], descriptor: int) -> None:
    """Send the messages of a cell, from its first phase to its result, each by a write of its own."""

    def send(message: Any) -> None:
        os.write(descriptor, json.dumps(MESSAGES.dump_python(message)).encode() + b"\n")

    def send_half(message: Any) -> None:
        data = json.dumps(MESSAGES.dump_python(message)).encode()
        os.write(descriptor, data[: len(data) // 2])

    if isinstance(job.task, DescribeEnvironment):
        send(JobResult(Outcome.OK, None, ENVIRONMENT))
        return
    name = os.path.basename(job.log_path).removesuffix(".log")
    journal = os.open(os.environ[JOURNAL_VARIABLE], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(journal, f"{name}\n".encode())
    for phase in ("build", "step 1/1", "trace"):
        guarded("cell", phase.split()[0], send)(PhaseEntered(phase))
        time.sleep(WORK_S / 3)  # this is the work
    if job.task.work.setting["fault"]["mode"] == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.task.work.setting["fault"]["mode"] == "unsupported":
        end = JobResult(Outcome.UNSUPPORTED, "this machine cannot do it", ENVIRONMENT, WORK_S)
        guarded("cell", "result", send, send_half)(end)
        return
    size = Metric(value=job.task.work.setting["fault"]["size"], unit="bytes", source="cpu-real", quality="exact")
    measurement = Measurement({"peak_tensor_bytes": size}, samples={"rows": [[0] * 500]})
    result = JobResult(Outcome.OK, None, ENVIRONMENT, WORK_S, measurement)
    guarded("cell", "result", send, send_half)(result)


if __name__ == "__main__":
    worker.run_job = quick_job
    server = fork_server._Server
    for name in ("_send", "_run", "_end_all_and_reap"):
        setattr(server, name, guarded("server", name, getattr(server, name)))
    del sys.argv[2:]  # nothing to preload
    fork_server.main()

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

ENVIRONMENT = {"python": "3", "torch": "none", "isolation": "fork", "device": "cpu"}
WORK_S = 0.004
JOURNAL_VARIABLE = "QUICK_JOURNAL"
"""Names a file to which every cell that begins adds a line."""


def quick_job(job: dict[str, Any], descriptor: int) -> None:
    """What a cell says, from its first phase to its result, each message a write of its own."""

    def send(message: dict[str, Any]) -> None:
        os.write(descriptor, json.dumps(message).encode() + b"\n")

    def send_half(message: dict[str, Any]) -> None:
        data = json.dumps(message).encode()
        os.write(descriptor, data[: len(data) // 2])

    if job["op"] == "environment":
        send({"result": ENVIRONMENT})
        return
    name = os.path.basename(job["log_path"]).removesuffix(".log")
    journal = os.open(os.environ[JOURNAL_VARIABLE], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(journal, f"{name}\n".encode())
    for phase in ("build", "step 1/1", "trace"):
        guarded("cell", phase.split()[0], send)({"phase": phase})
        time.sleep(WORK_S / 3)  # this is the work
    if job["setting"]["fault"]["mode"] == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if job["setting"]["fault"]["mode"] == "unsupported":
        end = {"outcome": "unsupported", "reason": "this machine cannot do it", "environment": ENVIRONMENT}
        guarded("cell", "result", send, send_half)({"result": end | {"metrics": {}, "work_s": WORK_S}})
        return
    size = {"value": job["setting"]["fault"]["size"], "unit": "bytes", "source": "cpu-real", "quality": "exact"}
    result = {
        "outcome": "ok",
        "reason": None,
        "environment": ENVIRONMENT,
        "metrics": {"peak_tensor_bytes": size | {"reason": None}},
        "phases": {},
        "samples": {"rows": [[0] * 500]},
        "work_s": WORK_S,
    }
    guarded("cell", "result", send, send_half)({"result": result})


if __name__ == "__main__":
    worker.run_job = quick_job
    server = fork_server._Server
    for name in ("_tell", "_run", "_end_all_and_reap"):
        setattr(server, name, guarded("server", name, getattr(server, name)))
    del sys.argv[2:]  # nothing to preload
    fork_server.main()

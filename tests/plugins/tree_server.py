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

ENVIRONMENT = {"python": "3", "torch": "none", "torchvision": "none", "trace_rules": 1, "isolation": "fork"}
JOURNAL_VARIABLE = "QUICK_JOURNAL"
"""Names a file to which every cell that begins adds a line: whose figures it found, and the harness."""
NOISE = (1.0, 1.02, 0.98, 1.01, 0.99)


def tree_job(job: dict[str, Any], descriptor: int) -> None:
    """A cell: its bytes are its size and what the tree adds; its time is the tree's, scattered by the repeat."""

    def send(message: dict[str, Any]) -> None:
        os.write(descriptor, json.dumps(message).encode() + b"\n")

    if job["op"] == "environment":
        send({"result": ENVIRONMENT})
        return
    import toy.figures as figures

    name = os.path.basename(job["log_path"]).removesuffix(".log")
    with open(os.environ[JOURNAL_VARIABLE], "a") as journal:
        journal.write(f"{name} {figures.__file__} {os.path.realpath(worker.__file__)}\n")
    if figures.ENDING == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if figures.ENDING == "wait":
        time.sleep(600)
    metrics = {
        "peak_tensor_bytes": (next(iter(job["setting"].values())) + figures.MORE, "bytes", "exact"),
        "step_time_s": (figures.STEP_S * NOISE[int(name.rpartition("-")[2]) % 5], "s", "measured"),
    }
    result = {
        "outcome": figures.ENDING,
        "reason": None if figures.ENDING == "ok" else f"{figures.ENDING} on purpose",
        "environment": ENVIRONMENT,
        "metrics": {
            key: {"value": value, "unit": unit, "source": "cpu-real", "quality": quality, "reason": None}
            for key, (value, unit, quality) in metrics.items()
        },
        "phases": {},
        "samples": None,
        "work_s": 0.0,
    }
    send({"result": result})


if __name__ == "__main__":
    worker.run_job = tree_job
    del sys.argv[2:]  # nothing to preload
    fork_server.main()

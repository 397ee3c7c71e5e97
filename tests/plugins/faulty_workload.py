"""A workload that fails in every way a cell can, for the tests. Registered by the dist-info beside it."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from slr_bench.errors import SlrBenchError, UnsupportedSettingError
from slr_bench.grid.workload import BuildContext, WorkloadSpec
from slr_bench.record import Metric

FIFO_VARIABLE = "FAULTY_WORKLOAD_FIFO"
"""Names a FIFO: a ``held`` cell writes its process ids into it and waits to be ended. Without it, it just works."""


HELD: list[bytearray] = []


class LossIsNan(SlrBenchError):
    """Stands for an error of a trainer."""


class Fault(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal[
        "ok",
        "sigkill",
        "sigsegv",
        "signal40",
        "hang",
        "ram",
        "ram_python",
        "exit",
        "sys_exit",
        "raise",
        "nan",
        "orphan",
        "fork",
        "held",
        "unsupported",
        "import",
        "oom_gpu",
        "oom_driver",
        "oom_cublas",
        "nan_loss",
        "daemon",
        "brim",
        "nonzero",
    ] = "ok"
    size: int = 1024


class FaultySettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    fault: Fault = Fault()


class _Work:
    """One float32 tensor of a known size a step, and the fault in the middle of it."""

    clips_per_step = 1  # the name in version 0.1; such work is still measured

    def __init__(self, settings: FaultySettings) -> None:
        self._fault = settings.fault

    def load(self) -> None:
        pass

    def step(self) -> None:
        import torch

        kept = torch.zeros(self._fault.size)
        commit(self._fault.mode)
        kept.add_(1)

    def tensors(self) -> dict[str, list[Any]]:
        return {}

    def metrics(self) -> dict[str, Any]:
        if self._fault.mode == "nan":
            return {"accuracy_top1": Metric(value=float("nan"), unit="ratio", source="faulty", quality="measured")}
        return {}


def commit(mode: str) -> None:
    if mode == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif mode == "sigsegv":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif mode == "signal40":
        os.kill(os.getpid(), 40)  # a real-time signal: it has no name
    elif mode == "hang":
        signal.pause()
    elif mode == "exit":
        os._exit(3)
    elif mode == "sys_exit":
        raise SystemExit(0)
    elif mode == "raise":
        raise ValueError("broken on purpose")
    elif mode == "ram":
        import torch

        torch.zeros(1 << 36)
    elif mode == "ram_python":
        bytearray(1 << 38)
    elif mode == "orphan":
        subprocess.Popen(["sleep", "600"])  # left running: the group's end must end it
    elif mode == "fork":
        if os.fork() == 0:  # like a loader process: it holds the cell's result pipe open
            signal.pause()
    elif mode == "held" and FIFO_VARIABLE in os.environ:
        left_running = subprocess.Popen(["sleep", "600"])
        with open(os.environ[FIFO_VARIABLE], "w") as fifo:
            fifo.write(f"{os.getppid()} {os.getpid()} {left_running.pid}\n")
        signal.pause()
    elif mode == "unsupported":
        raise UnsupportedSettingError("this machine cannot do it")
    elif mode == "oom_gpu":
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has 2 MiB free.")
    elif mode == "oom_driver":
        raise RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`.")
    elif mode == "oom_cublas":
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    elif mode == "nan_loss":
        raise LossIsNan("the loss of step 1 is nan; lower the learning rate")
    elif mode == "daemon":  # leaves the cell's group and session, and holds its result pipe
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execvp("sleep", ["sleep", "600"])
            os._exit(0)
    elif mode == "brim":  # fills the limit with what lives on: nothing is left to tell the end with
        while True:
            HELD.append(bytearray(1 << 12))
    elif mode == "nonzero":  # how many there are only the contents say
        import torch

        torch.ones(4).nonzero()
    elif mode == "import":
        import no_such_module  # noqa: F401


def _build(settings: FaultySettings, context: BuildContext) -> Any:
    return _Work(settings)


faulty = WorkloadSpec(name="faulty", settings=FaultySettings, build=_build, preload=())
"""Cells that end as their ``fault.mode`` says."""


hungry = WorkloadSpec(name="hungry", settings=FaultySettings, build=_build, preload=(), monotone=("fault.size",))
"""The same, where a larger ``fault.size`` is known to need more memory."""


def _need_more(settings: FaultySettings, context: BuildContext) -> Any:
    import no_such_module

    return no_such_module


unloadable = WorkloadSpec(name="unloadable", settings=FaultySettings, build=_need_more, preload=("no_such_module",))
"""Declares a module that is not installed."""

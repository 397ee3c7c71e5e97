"""A workload that fails in every way a cell can, for the tests. Registered by the dist-info beside it."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from slr_bench.errors import UnsupportedSettingError
from slr_bench.grid.workload import BuildContext, WorkloadSpec


class Fault(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["ok", "sigkill", "sigsegv", "hang", "ram", "exit", "raise", "orphan", "unsupported", "import"] = "ok"
    size: int = 1024
    tag: str = ""


class FaultySettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    fault: Fault = Fault()


class _Work:
    """One float32 tensor of a known size a step, and the fault in the middle of it."""

    clips_per_step = 1

    def __init__(self, settings: FaultySettings) -> None:
        self._fault = settings.fault

    def load(self) -> None:
        pass

    def step(self) -> None:
        import torch

        kept = torch.zeros(self._fault.size)
        commit(self._fault.mode, self._fault.tag)
        kept.add_(1)

    def tensors(self) -> dict[str, list[Any]]:
        return {}

    def metrics(self) -> dict[str, Any]:
        return {}


def commit(mode: str, tag: str) -> None:
    if mode == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif mode == "sigsegv":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif mode == "hang":
        signal.pause()
    elif mode == "exit":
        os._exit(3)
    elif mode == "raise":
        raise ValueError("broken on purpose")
    elif mode == "ram":
        import torch

        torch.zeros(1 << 36)
    elif mode == "orphan":
        subprocess.Popen(["sleep", f"600.{tag}"])  # left running: the group's end must end it
    elif mode == "unsupported":
        raise UnsupportedSettingError("this machine cannot do it")
    elif mode == "import":
        import no_such_module  # noqa: F401


def _build(settings: FaultySettings, context: BuildContext) -> Any:
    return _Work(settings)


faulty = WorkloadSpec(name="faulty", settings=FaultySettings, build=_build)

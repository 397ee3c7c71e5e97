"""What the worker lends to a workload, and which device that is."""

from __future__ import annotations

import contextlib
import importlib
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel
from torch._subclasses.fake_tensor import FakeTensorMode

from slr_bench.errors import UnsupportedSettingError
from slr_bench.grid.workload import WorkloadSpec, find_workload
from slr_bench.probes.phases import PhaseClock
from slr_bench.run.preparation import NO_CUDA
from slr_bench.trace.fake import swap_for_fake
from slr_bench.trace.rules import CpuFakeMode
from slr_bench.trace.tracer import others_alive


def resolve_device(wanted: str) -> str:
    """``auto`` -> ``cuda`` where a device answers, else ``cpu``."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


class Context:
    """What the workload is lent: device, phases, and real or fake places for its modules."""

    def __init__(self, device: torch.device, fake_mode: FakeTensorMode | None) -> None:
        def synchronize() -> None:
            if device.type == "cuda" and fake_mode is None:
                torch.cuda.synchronize(device)

        self.device = device
        self.fake_mode = fake_mode
        self.synchronize = synchronize
        self.phase = PhaseClock(synchronize)
        self.others = others_alive(self.is_fake)
        """What lived before the workload was built: not its memory."""

    @property
    def is_fake(self) -> bool:
        """Whether tensors have no contents."""
        return self.fake_mode is not None

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """Move to the device, or swap for fake tensors."""
        return swap_for_fake(module, self.fake_mode) if self.fake_mode else module.to(self.device)

    def tensors(self) -> AbstractContextManager[Any]:
        """The mode in which steps run."""
        return self.fake_mode or contextlib.nullcontext()


class OpenJob(NamedTuple):
    """A job's workload, its settings, and what it is lent; nothing is built yet."""

    spec: WorkloadSpec
    settings: BaseModel
    context: Context


def open_job(job: dict[str, Any]) -> OpenJob:
    """Find what a job names and make its context.

    Raises:
        UnsupportedSettingError: CUDA asked for where there is none.
    """
    device = torch.device("cpu" if job["fake"] else resolve_device(job["device"]))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnsupportedSettingError(NO_CUDA)
    torch.manual_seed(0)
    spec = find_workload(job["workload"])
    for name in spec.preload:  # imported already in a fork; their constants are not the workload's memory
        with contextlib.suppress(ImportError):  # building it will say so
            importlib.import_module(name)
    context = Context(device, CpuFakeMode() if job["fake"] else None)
    return OpenJob(spec, spec.settings.model_validate(job["setting"]), context)

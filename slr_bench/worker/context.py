"""What the worker lends to a workload, and which device that is."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel
from torch._subclasses.fake_tensor import FakeTensorMode

from slr_bench.errors import UnsupportedSettingError
from slr_bench.grid.workload import WorkloadSpec, find_workload
from slr_bench.live_bytes import storages_alive
from slr_bench.probes.phases import PhaseClock
from slr_bench.run.preflight import NO_CUDA
from slr_bench.trace.fake.cpu_rules import CpuFakeMode
from slr_bench.trace.fake.cuda_rules import CudaFakeMode, cuda_routes
from slr_bench.trace.fake.tensors import swap_for_fake


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
        self.others = storages_alive(self.is_fake)
        """What lived before the workload was built: not its memory."""

    @property
    def is_fake(self) -> bool:
        """Whether tensors have no contents."""
        return self.fake_mode is not None

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """Move to the device, or swap for fake tensors."""
        return swap_for_fake(module, self.fake_mode) if self.fake_mode else module.to(self.device)

    @property
    def cuda_rules(self) -> CudaFakeMode | None:
        """The mode in which tensors stand for a GPU's; None where they are what they say."""
        return self.fake_mode if isinstance(self.fake_mode, CudaFakeMode) else None

    @property
    def source(self) -> str:
        """What a traced figure is of: figures of different sources never compare."""
        if self.cuda_rules is not None:
            return "cuda-rules"
        return f"{self.device.type}-{'fake' if self.is_fake else 'real'}"

    @contextlib.contextmanager
    def tensors(self) -> Iterator[None]:
        """The mode in which steps run."""
        with cuda_routes() if self.cuda_rules else contextlib.nullcontext(), self.fake_mode or contextlib.nullcontext():
            yield


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
    fake_mode = (CudaFakeMode() if job.get("cuda_rules") else CpuFakeMode()) if job["fake"] else None
    context = Context(device, fake_mode)
    return OpenJob(spec, spec.settings.model_validate(job["setting"]), context)

"""Opens a workload with its context: its device, its phases, and where its modules are placed."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from pydantic import BaseModel
from torch._subclasses.fake_tensor import FakeTensorMode

from slr_bench.errors import UnsupportedSettingError
from slr_bench.execute.job import NO_CUDA, Work
from slr_bench.grid.workload import WorkloadSpec, find_workload
from slr_bench.live_bytes import storages_alive
from slr_bench.probes.phases import PhaseClock
from slr_bench.trace.fake.cpu_rules import CpuFakeMode
from slr_bench.trace.fake.cuda_rules import CudaFakeMode, cuda_routes
from slr_bench.trace.fake.tensors import swap_for_fake
from slr_bench.worker.environment import resolve_device


class Context:
    """The context of a workload: its device, its phases, and the real or fake placement of its modules."""

    def __init__(self, device: torch.device, fake_mode: FakeTensorMode | None) -> None:
        def synchronize() -> None:
            if device.type == "cuda" and fake_mode is None:
                torch.cuda.synchronize(device)

        self.device = device
        self.fake_mode = fake_mode
        self.synchronize = synchronize
        self.phase = PhaseClock(synchronize)
        self.others = storages_alive(self.is_fake)
        """Storages that existed before the workload was built and are no part of its memory."""

    @property
    def is_fake(self) -> bool:
        """True if tensors have shapes but no contents."""
        return self.fake_mode is not None

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """Move a module to the device, or replace its tensors by fake ones."""
        return swap_for_fake(module, self.fake_mode) if self.fake_mode else module.to(self.device)

    @property
    def cuda_rules(self) -> CudaFakeMode | None:
        """The mode in which fake tensors represent those of a GPU; None in any other mode."""
        return self.fake_mode if isinstance(self.fake_mode, CudaFakeMode) else None

    @property
    def source(self) -> str:
        """The kind of trace: figures of different sources are never compared."""
        if self.cuda_rules is not None:
            return "cuda-rules"
        return f"{self.device.type}-{'fake' if self.is_fake else 'real'}"

    @contextlib.contextmanager
    def tensors(self) -> Iterator[None]:
        """Enter the mode in which steps run."""
        with cuda_routes() if self.cuda_rules else contextlib.nullcontext(), self.fake_mode or contextlib.nullcontext():
            yield


class OpenWork(NamedTuple):
    """A workload, its settings and its context; nothing is built yet."""

    spec: WorkloadSpec
    settings: BaseModel
    context: Context


def open_work(work: Work, device_name: str) -> OpenWork:
    """Find a workload and make its context.

    Raises:
        UnsupportedSettingError: The device is CUDA and torch sees none.
    """
    device = torch.device("cpu" if work.fake else resolve_device(device_name))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnsupportedSettingError(NO_CUDA)
    torch.manual_seed(0)
    spec = find_workload(work.workload)
    for name in spec.preload:  # a fork has imported them already; their constants are not the workload's memory
        with contextlib.suppress(ImportError):  # building the workload reports it
            importlib.import_module(name)
    fake_mode = (CudaFakeMode() if work.cuda_rules else CpuFakeMode()) if work.fake else None
    return OpenWork(spec, spec.settings.model_validate(work.setting), Context(device, fake_mode))

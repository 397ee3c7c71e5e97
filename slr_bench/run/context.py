"""What the worker lends to a workload, and which device that is."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from slr_bench.probes.phases import PhaseClock
from slr_bench.trace.fake import swap_for_fake


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

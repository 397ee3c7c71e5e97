"""Fake tensors: shapes and types without contents, so that a step can be traced with no data and no GPU."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode


def swap_for_fake(module: torch.nn.Module, mode: FakeTensorMode) -> torch.nn.Module:
    """Replace every parameter and buffer of a really built module by its fake twin, shared ones staying shared.

    Building inside the fake mode fails for many models (``trunc_normal_``, ``copy.deepcopy``); swapping works for all.
    """
    twins: dict[int, torch.Tensor] = {}
    for owner in module.modules():
        for table in (owner._parameters, owner._buffers):
            for name, tensor in table.items():
                if tensor is None:
                    continue
                if id(tensor) not in twins:
                    fake = mode.from_tensor(tensor.detach())
                    is_parameter = isinstance(tensor, torch.nn.Parameter)
                    twins[id(tensor)] = torch.nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake
                table[name] = twins[id(tensor)]  # type: ignore[assignment]
    return module

"""Forward passes as CUDA dispatches them, without a GPU: the reference for a trace under CUDA rules.

Torch's CUDA build runs a forward pass on fake tensors on a CUDA device; only backward needs a driver. So one network is
run twice, on such tensors and on the CPU's under ``cuda_routes``, and both must call the same operators.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from slr_bench.live_bytes import tensors_in
from slr_bench.trace.fake.cuda_rules import CudaFakeMode, cuda_routes
from slr_bench.trace.fake.tensors import swap_for_fake

_OF_ONE_DEVICE = {"detach", "t", "empty", "view", "_unsafe_view", "lift_fresh", "device"}
"""Operators that allocate nothing, or that the two devices call differently for the same result."""
_TWINS = {"cudnn_batch_norm": "native_batch_norm"}

Made = tuple[tuple[tuple[int, ...], str], ...]


class Forward(NamedTuple):
    """One forward pass."""

    operators: list[tuple[str, Made]]
    """Name of each operator, with shape and type of each tensor that it returned."""
    saved_bytes: int
    """Bytes of the storages that backward needs."""


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.called: list[tuple[str, Made]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = str(func.overloadpacket).rpartition(".")[2]
        copied = name == "_to_copy" and args[0].device != made.device  # a constant on its way to the GPU
        if name not in _OF_ONE_DEVICE and not copied:
            tensors = tensors_in(made)[: 3 if "batch_norm" in name else None]  # cuDNN's has a reserve, here empty
            described = tuple((tuple(tensor.shape), str(tensor.dtype)) for tensor in tensors)
            self.called.append((_TWINS.get(name, name), described))
        return made


def fake_mode(device: str) -> FakeTensorMode:
    """Return torch's own mode for ``cuda``, and that of the rules for ``cpu``."""
    return CudaFakeMode() if device == "cpu" else FakeTensorMode()


def routes(device: str) -> contextlib.AbstractContextManager[None]:
    """Return the routes under test for ``cpu``, and none for ``cuda``."""
    return cuda_routes() if device == "cpu" else contextlib.nullcontext()


@contextlib.contextmanager
def autocast(device: str, dtype: torch.dtype | None) -> Any:
    """``torch.autocast``, which asks a GPU whether it is there, without the question."""
    torch.set_autocast_enabled(device, dtype is not None)
    torch.set_autocast_dtype(device, dtype or torch.bfloat16)
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, False)
        torch.set_autocast_dtype(device, torch.bfloat16 if device == "cpu" else torch.float16)
        torch.set_autocast_cache_enabled(True)


def forward(build: Callable[[], nn.Module], shape: tuple[int, ...], device: str, dtype: torch.dtype | None) -> Forward:
    """Run the network in training on ``cuda``, or on ``cpu`` under CUDA's rules. Attention is the plain one: which
    fused kernel runs is a question to the card.
    """
    torch.manual_seed(0)
    mode = fake_mode(device)
    network = swap_for_fake(build(), mode)
    operators, saved = _Operators(), {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor  # kept, so that its number is not given again
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with sdpa_kernel(SDPBackend.MATH), mode, routes(device):
        if device == "cuda":
            _move(network)
        x = torch.empty(shape, device=device)
        with autocast(device, dtype), hooks, operators:
            network(x)
    size = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    return Forward(operators.called, size)


def _move(network: nn.Module) -> None:
    """Move a network to a GPU that does not exist. ``Module.to`` would look for the device."""
    for module in network.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")
                    table[name] = nn.Parameter(twin, tensor.requires_grad) if tensor.requires_grad else twin

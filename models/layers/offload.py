"""Activations wait for backward in host memory (as in vDNN, Rhu et al., MICRO 2016)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from slr_bench.units import MIB

SMALLEST_BYTES = MIB
"""What is smaller stays: the latency of a transfer would buy nothing."""


class _Away(NamedTuple):
    copy: Tensor
    device: torch.device


def pinned_copy(tensor: Tensor) -> Tensor:
    """A copy in page-locked host memory, laid out as the original; the transfer runs in the order of the stream."""
    copy = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return copy.copy_(tensor, non_blocking=True)


def offloaded(
    model: nn.Module, to_host: Callable[[Tensor], Tensor] = pinned_copy, smallest_bytes: int = SMALLEST_BYTES
) -> AbstractContextManager[object]:
    """While open, what autograd saves for backward is kept by ``to_host`` and brought back when backward asks.

    For one forward pass. Parameters and buffers of ``model`` stay where they are. A tensor that several operators save
    travels out once (``torch.autograd.graph.save_on_cpu`` copies it for each). Inside a recomputed part nothing is
    kept, so its input alone travels: checkpoint's own hooks are the inner ones.

    Cost: every kept byte crosses the bus twice a step.
    """
    stays = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]}
    away: dict[tuple[Any, ...], _Away] = {}

    def pack(tensor: Tensor) -> Tensor | _Away:
        storage = tensor.untyped_storage()
        if tensor.nbytes < smallest_bytes or storage._cdata in stays:
            return tensor
        # The reference keeps the storage's identity, not its memory: an address alone would be used again.
        place = (StorageWeakRef(storage), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor._version)
        if place not in away:
            away[place] = _Away(to_host(tensor.detach()), tensor.device)
        return away[place]

    def unpack(kept: Tensor | _Away) -> Tensor:
        return kept.copy.to(kept.device, non_blocking=True) if isinstance(kept, _Away) else kept

    return saved_tensors_hooks(pack, unpack)

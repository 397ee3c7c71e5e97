"""Bytes of the tensors that operators make, counted as they come and go; on real and on fake tensors."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, device
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_DEVICE = torch.ops.prim.device.default


class LiveBytes(TorchDispatchMode):
    """Counts storages made on a device while open until they die, also after that, and the work done while open.

    What is first seen as an argument was there before and does not count. What an operator allocates and frees inside
    itself is not seen.
    """

    def __init__(self, device: device) -> None:
        super().__init__()
        self._device_type = device.type
        self.live_bytes = 0
        self.peak_bytes = 0
        """Since it was last set."""
        self.flops = 0
        """Of products and convolutions, by torch's own formulas."""
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _DEVICE:  # fake tensors are asked for their device so, often; it is no work
            return args[0].fake_device if isinstance(args[0], FakeTensor) else func(*args, **kwargs)
        self._see((args, kwargs), made=False)
        made = func(*args, **kwargs)
        self._see(made, made=True)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=made)
        return made

    def _see(self, values: Any, made: bool) -> None:
        for tensor in tree_leaves(values):
            if isinstance(tensor, Tensor) and tensor.device.type == self._device_type:
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known:
                    size = storage.nbytes() if made else 0
                    self._known[storage._cdata] = weakref.ref(storage, self._forget(storage._cdata, size))
                    self.live_bytes += size

    def _forget(self, key: int, size: int) -> Callable[[object], None]:
        def gone(_: object) -> None:
            del self._known[key]
            self.live_bytes -= size

        return gone

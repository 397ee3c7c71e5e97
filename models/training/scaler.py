"""The gradient scaler of fp16, which takes steps on fake tensors too."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim import Optimizer


class GradScaler(torch.amp.GradScaler):
    """torch's own, except on fake tensors: these have no contents to be infinite, so a traced step never overflows."""

    def tensors(self) -> list[torch.Tensor]:
        """The scale and the count of steps since it last changed; none before the first loss, or where disabled."""
        found = (self._scale, self._growth_tracker) if self._enabled else ()
        return [tensor for tensor in found if tensor is not None]

    def _maybe_opt_step(
        self, optimizer: Optimizer, optimizer_state: dict[str, Any], *args: Any, **kwargs: Any
    ) -> float | None:
        found = optimizer_state["found_inf_per_device"].values()
        if any(isinstance(value, FakeTensor) for value in found):
            return optimizer.step(*args, **kwargs)
        return super()._maybe_opt_step(optimizer, optimizer_state, *args, **kwargs)

    def get_scale(self) -> float:
        """The scale as a number; on fake tensors the first one."""
        if self._enabled and isinstance(self._scale, FakeTensor):
            return float(self._init_scale)
        return super().get_scale()

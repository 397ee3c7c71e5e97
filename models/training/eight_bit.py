"""AdamW whose two moments take 8 bits a number and 32 a block of 256 (Dettmers et al., ICLR 2022), by torchao."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from slr_bench.errors import UnsupportedSettingError


def adamw_8bit() -> type[Optimizer]:
    """The class, made when it is asked for: torchao is an optional package.

    Parameters below 4096 numbers, or not of whole blocks, have moments of their own type.

    Raises:
        UnsupportedSettingError: torchao is not installed.
    """
    try:
        from torchao.optim import AdamW8bit
        from torchao.optim.subclass_8bit import OptimState8bit
    except ImportError as error:
        raise UnsupportedSettingError(
            "training.optimizer: adamw_8bit needs the package torchao, which is not installed; "
            "pip install torchao, or use training.optimizer: adamw"
        ) from error
    for signed in (True, False):  # its tables of values are made once, and cannot be made among fake tensors
        OptimState8bit.zeros((1,), signed, block_size=1)

    class EagerAdamW8bit(AdamW8bit):
        """torchao's, but uncompiled (it compiles the update of every shape, which takes minutes), with plain numbers
        as rates (its tensors would be real ones among fake ones), and with second moments that never round to zero.

        Where they do, and the gradient then vanishes (a ReLU that no longer fires), the first moment is divided by
        ``eps`` alone: weights of size 1 moved by 174 in one step. Rounded up, such a number moves less, not more.
        """

        def add_param_group(self, param_group: dict[str, Any]) -> None:
            rate = param_group.get("lr", self.defaults["lr"])
            super().add_param_group(param_group)
            self.param_groups[-1]["lr"] = rate

        def step(self, closure: Any = None) -> Any:
            rates = [group["lr"] for group in self.param_groups]
            for group in self.param_groups:
                group["lr"] = torch.tensor(group["lr"])
            try:
                with torch.compiler.set_stance("force_eager"):
                    loss = super().step(closure)
            finally:
                for group, rate in zip(self.param_groups, rates, strict=True):
                    group["lr"] = rate
            self._keep_above_zero()
            return loss

        def _keep_above_zero(self) -> None:
            for group in self.param_groups:
                for parameter in group["params"]:
                    codes = getattr(self.state.get(parameter, {}).get("exp_avg_sq"), "codes", None)
                    if codes is not None:
                        codes.clamp_(min=1)  # code 0 is zero, code 1 a three-millionth of the block's largest

    return EagerAdamW8bit

"""What an optimizer step is made of: parameter groups, schedule, compute type."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from models.config import TrainingConfig
from slr_bench.errors import UnsupportedSettingError

FP32_PRECISIONS = {"fp32": "ieee", "tf32": "tf32"}
AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, config: TrainingConfig) -> torch.autocast:
    """The compute type of ``config`` for a forward pass; does nothing at fp32.

    Without the weight cache: each weight is used once a forward pass, the cache would only keep its cast alive.
    """
    dtype = AUTOCAST_DTYPES.get(config.precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None, cache_enabled=False)


@contextmanager
def fp32_products(device: torch.device, config: TrainingConfig) -> Iterator[None]:
    """How CUDA multiplies fp32 numbers while open, backward included: ``tf32`` rounds the factors to 10 bits, ``fp32``
    does not (torch's own default rounds in convolutions, not in products). The other types leave it as it was.

    Nothing on a CPU: oneDNN would round to bf16 there, and ``tf32`` is promised to be fp32.
    """
    precision = FP32_PRECISIONS.get(config.precision)
    if device.type != "cuda" or precision is None:
        yield
        return
    places: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = precision
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


def build_optimizer(model: nn.Module, config: TrainingConfig) -> Optimizer:
    """AdamW or SGD with torch's own defaults (foreach on CUDA); vectors, so norms and biases, do not decay.

    Raises:
        UnsupportedSettingError: ``adamw_8bit`` without torchao.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return SGD(groups, lr=config.learning_rate, momentum=0.9)
    kind = _adamw_8bit() if config.optimizer == "adamw_8bit" else AdamW
    return kind(groups, lr=config.learning_rate)


def _adamw_8bit() -> type[Optimizer]:
    """AdamW whose two moments take 8 bits a number and 32 a block of 256 (Dettmers et al., ICLR 2022), by torchao.

    Parameters below 4096 numbers, or not of whole blocks, have moments of their own type.
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
        """Uncompiled, and with plain rates: torchao compiles the update of every shape, which takes minutes, and keeps
        each rate as a tensor, which is then a real one among fake ones."""

        def add_param_group(self, param_group: dict[str, Any]) -> None:
            super().add_param_group(param_group)
            self.param_groups[-1]["lr"] = float(self.param_groups[-1]["lr"])

        def step(self, closure: Any = None) -> Any:
            rates = [group["lr"] for group in self.param_groups]
            for group in self.param_groups:
                group["lr"] = torch.tensor(group["lr"])
            try:
                with torch.compiler.set_stance("force_eager"):
                    return super().step(closure)
            finally:
                for group, rate in zip(self.param_groups, rates, strict=True):
                    group["lr"] = rate

    return EagerAdamW8bit


def one_cycle(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Factor of the peak learning rate at ``step`` (from 0): a linear rise, then half a cosine down to 0.

    The cosine starts at 1 on the first step after the rise and reaches 0 after the last step.
    """
    warmup_steps = round(total_steps * warmup_fraction)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def steps_per_epoch(clips: int, config: TrainingConfig) -> int:
    """Optimizer steps for ``clips`` clips; a last, partial window counts as one."""
    return math.ceil(clips / config.effective_batch)

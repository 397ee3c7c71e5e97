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
from models.training.eight_bit import adamw_8bit

FP32_PRECISIONS = {"fp32": "ieee", "tf32": "tf32"}
AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, config: TrainingConfig) -> torch.autocast:
    """The compute type of ``config`` for a forward pass; does nothing at fp32.

    Without the weight cache: each weight is used once a forward pass, the cache would only keep its cast alive.
    """
    dtype = AUTOCAST_DTYPES.get(config.precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None, cache_enabled=False)


@contextmanager
def fp32_products(config: TrainingConfig) -> Iterator[None]:
    """How CUDA multiplies fp32 numbers while open, backward included: ``tf32`` rounds the factors to 10 bits, ``fp32``
    does not (torch's own default rounds in convolutions, not in products). The other types leave it as it was.

    Only CUDA's: on a CPU oneDNN would round to bf16, and ``tf32`` is promised to be fp32.
    """
    precision = FP32_PRECISIONS.get(config.precision)
    if precision is None:
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
    kind = adamw_8bit() if config.optimizer == "adamw_8bit" else AdamW
    return kind(groups, lr=config.learning_rate)


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

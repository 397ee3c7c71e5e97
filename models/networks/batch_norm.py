"""Checks before a training that every batch norm sees more than one value per channel.

The variance of one value is 0, so torch refuses it, in the middle of a training if only its last micro-batch has one
clip.

T frame, C channel, H height, W width
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm

from models.config import Settings
from models.networks.efficient import build_recogniser
from slr_bench.errors import ConfigError


def refuse_norms_over_one_value(settings: Settings, clips: int) -> None:
    """Refuse a training on ``clips`` clips in which a batch norm sees one value per channel.

    Raises:
        ConfigError: it would; the message names the sizes that mend it.
    """
    training, model = settings.training, settings.model
    last = clips % training.batch_size or training.batch_size
    smallest = 1 if training.dynamic_batch_size else last
    if smallest > 1 or least_values_per_channel(settings) != 1:
        return
    if training.batch_size == 1:
        why, cure = "training.batch_size is 1", "use training.batch_size: 2 or more"
    elif last == 1:
        fitting = next((size for size in range(training.batch_size, 1, -1) if clips % size != 1), None)
        why = f"of {clips} clips in micro-batches of {training.batch_size} the last one has one clip"
        cure = f"use training.batch_size: {fitting}" if fitting else "use one clip more"
    else:
        why, cure = "training.dynamic_batch_size may halve the micro-batch to one clip", "use dynamic_batch_size: false"
    raise ConfigError(
        f"batch norm needs more than one value per channel: a clip of {clip_size(settings)} leaves one in the last "
        f"layers of network: {model.network}, and {why}; {cure}, or a larger data.frame_size"
    )


def clip_size(settings: Settings) -> str:
    """Return ``"16 frames of 224 pixels"``."""
    return f"{settings.model.num_frames} frames of {settings.data.frame_size} pixels"


def least_values_per_channel(settings: Settings) -> int | None:
    """Return the fewest values per channel and clip that a trained batch norm sees; None without batch norm.

    The network runs once on one clip without contents, which takes about half a second and draws no random numbers.
    """
    if settings.model.freeze_backbone:  # a frozen backbone keeps its statistics, and it holds all batch norms
        return None
    found: list[int] = []

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x: Tensor = inputs[0]
        found.append(prod(x.shape) // x.shape[1])

    size = settings.data.frame_size
    with FakeTensorMode(), torch.no_grad():
        model = build_recogniser(settings.model.model_copy(update={"weights": None})).eval()
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.register_forward_pre_hook(note)
        model(torch.zeros((1, settings.model.num_frames, 3, size, size), dtype=torch.uint8))
    return min(found, default=None)

"""Processor time and peak bytes of single layers, forward and backward, in fp32.

The shift takes two clips of 16 frames at the first stage's shape, a quarter as wide: 16 channels of 56 x 56. The
temporal pyramid takes eight clips of 512 features (the reference network's), with levels 1, 2 and 4.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from models.layers.temporal import ShiftedConv2d, ShiftKind, TemporalPyramid

FRAMES, CHANNELS, SIDE = 16, 16, 56
CLIPS, FEATURES, LEVELS = 8, 512, (1, 2, 4)


@pytest.mark.parametrize("kind", ["none", "plain", "memory_efficient"])
@pytest.mark.benchmark(timer=time.process_time, disable_gc=True)
def test_shift(memory_benchmark: Any, kind: ShiftKind) -> None:
    """Gradients of the input and the weight; the input is the output of a ReLU, as in the network."""
    conv = ShiftedConv2d(CHANNELS, CHANNELS, stride=1, num_frames=FRAMES, kind=kind)
    x_NCHW = torch.randn(2 * FRAMES, CHANNELS, SIDE, SIDE, requires_grad=True)
    grad_NCHW = torch.randn(2 * FRAMES, CHANNELS, SIDE, SIDE)

    def work() -> None:
        torch.autograd.grad(conv(x_NCHW.relu()), (x_NCHW, conv.weight), grad_NCHW)

    memory_benchmark.pedantic(work, rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("frames", [16, 64, 256])
@pytest.mark.benchmark(timer=time.process_time)
def test_pyramid(memory_benchmark: Any, frames: int) -> None:
    """Gradient of the features."""
    pyramid = TemporalPyramid(LEVELS)
    x_BTD = torch.randn(CLIPS, frames, FEATURES, requires_grad=True)
    grad_BLD = torch.randn(CLIPS, sum(LEVELS), FEATURES)

    def work() -> None:
        torch.autograd.grad(pyramid(x_BTD), x_BTD, grad_BLD)

    memory_benchmark.pedantic(work, rounds=20, warmup_rounds=2)

"""Processor time and peak bytes of single layers, forward and backward, in fp32.

The shift takes two clips of 16 frames at the first stage's shape, a quarter as wide: 16 channels of 56 x 56. The
temporal pyramid takes eight clips of 512 features (the reference network's), with levels 1, 2 and 4.

Attention has the module's own shape: 4 heads of 128 features, one clip, chunks of 64 keys, a window of 4 frames on each
side and one global frame. Its peak also holds q, k, v and the gradient of the output, 2,048 bytes each per frame. Long
clips are marked slow: ``make bench-attention`` has them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.layers.attention import dense_attention
from models.layers.attention_tiles import chunked_attention, sparse_attention
from models.layers.temporal import ShiftedConv2d, ShiftKind, TemporalPyramid

FRAMES, CHANNELS, SIDE = 16, 16, 56
CLIPS, POOLED_FEATURES, LEVELS = 8, 512, (1, 2, 4)


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
    x_BTD = torch.randn(CLIPS, frames, POOLED_FEATURES, requires_grad=True)
    grad_BLD = torch.randn(CLIPS, sum(LEVELS), POOLED_FEATURES)

    def work() -> None:
        torch.autograd.grad(pyramid(x_BTD), x_BTD, grad_BLD)

    memory_benchmark.pedantic(work, rounds=20, warmup_rounds=2)


HEADS, FEATURES, CHUNK, WINDOW, GLOBAL_FRAMES = 4, 128, 64, 4, 1
LENGTHS = (64, 256, *(pytest.param(frames, marks=pytest.mark.slow) for frames in (128, 512, 1024, 2048, 4096)))

BACKENDS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "dense": dense_attention,
    "chunked": lambda q, k, v: chunked_attention(q, k, v, CHUNK),
    "sdpa": F.scaled_dot_product_attention,
    "sparse": lambda q, k, v: sparse_attention(q, k, v, WINDOW, GLOBAL_FRAMES),
}


@pytest.mark.parametrize("frames", LENGTHS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.benchmark(timer=time.process_time, warmup=False)
def test_attention(memory_benchmark: Any, backend: str, frames: int) -> None:
    """One clip, gradients of queries, keys and values."""
    shape = (1, HEADS, frames, FEATURES)
    q, k, v = (torch.randn(shape, requires_grad=True) for _ in range(3))
    grad_BATD = torch.randn(shape)
    attention = BACKENDS[backend]

    def work() -> None:
        torch.autograd.grad(attention(q, k, v), (q, k, v), grad_BATD)

    memory_benchmark.pedantic(work, rounds=5 if frames < 2048 else 3, warmup_rounds=1)

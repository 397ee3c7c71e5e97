"""Attention forward and backward by back-end and length: processor time and peak bytes.

The module's own shape (4 heads of 128 features, one clip, fp32), chunks of 64 keys, a window of 4 frames on each side
and one global frame. The peak holds q, k, v and the gradient of the output, too: 2,048 bytes each a frame.
Long clips are marked slow: ``make bench-attention`` has them.
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

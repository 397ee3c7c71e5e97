"""The temporal pyramid, forward and backward: processor time and peak bytes by length.

Eight clips of 512 features (the reference network's), levels 1, 2 and 4, fp32; every frame counts once.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from models.layers.temporal_pyramid import TemporalPyramid

CLIPS, FEATURES, LEVELS = 8, 512, (1, 2, 4)


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

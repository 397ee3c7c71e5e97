"""One optimizer step of either arm: processor time and peak bytes, at the size of `benchmarks.small_step`."""

from __future__ import annotations

import time
from typing import Any

import pytest

from benchmarks.small_step import ARMS, small_step


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.benchmark(timer=time.process_time, disable_gc=True)
def test_train_step(memory_benchmark: Any, arm: str) -> None:
    """The effective batch is 16 clips in both."""
    memory_benchmark.pedantic(small_step(arm), rounds=5)

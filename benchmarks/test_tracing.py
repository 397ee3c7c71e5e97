"""Processor time and peak bytes of one optimizer step of both arms, and the time of a step while it is traced.

The steps have the size of `benchmarks.small_step`; `benchmarks.proofs.trace_cost` measures a larger one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch

from benchmarks.small_step import ARMS, small_step
from slr_bench.live_bytes import LiveBytes
from slr_bench.trace.recorder import Recorder

CPU = torch.device("cpu")
METERS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "not traced": nullcontext,
    "byte count": lambda: LiveBytes(CPU, {}),
    "attribution": lambda: Recorder(CPU, {}),
}


@pytest.mark.parametrize("meter", METERS)
@pytest.mark.benchmark(timer=time.process_time, disable_gc=True)
def test_tracing(memory_benchmark: Any, meter: str) -> None:
    """A step of the baseline arm; its bytes are the same with and without tracing."""
    step = small_step("baseline")

    def traced() -> None:
        with METERS[meter]():
            step()

    memory_benchmark.pedantic(traced, rounds=3)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.benchmark(timer=time.process_time, disable_gc=True)
def test_train_step(memory_benchmark: Any, arm: str) -> None:
    """The effective batch is 16 clips in both."""
    memory_benchmark.pedantic(small_step(arm), rounds=5)

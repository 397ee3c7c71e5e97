"""What tracing costs a small training step; `benchmarks.proofs.trace_cost` measures the ratio on a larger one."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch

from benchmarks.small_step import small_step
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
    """The baseline arm, on the record or not: its bytes are the same."""
    step = small_step("baseline")

    def traced() -> None:
        with METERS[meter]():
            step()

    memory_benchmark.pedantic(traced, rounds=3)

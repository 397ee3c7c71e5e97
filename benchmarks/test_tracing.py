"""Processor time and peak bytes of one optimizer step of both arms, and the time of a step while it is traced.

The steps are small enough for a benchmark of seconds: those of the ablation, on clips without contents.
`benchmarks.proofs.trace_cost` measures a larger one.

B clip, T frame, C channel, H height, W width
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.workload_steps import MicroBatch
from models.config import Settings
from models.networks.efficient import build_recogniser
from models.training.stepper import Stepper
from slr_bench.grid.cells import own_cell
from slr_bench.grid.config import load_grid
from slr_bench.live_bytes import LiveBytes
from slr_bench.trace.recorder import Recorder

ABLATION = Path(__file__).resolve().parents[1] / "configs" / "ablation.yml"
ARMS = ("baseline", "optimized")
SMALL = {"model.base_channels": 8, "model.num_frames": 8, "data.frame_size": 64}


def small_step(arm: str) -> Callable[[], object]:
    """``step()`` takes one optimizer step over the effective batch of 16; a first one has made the optimizer state."""
    settings = own_cell(load_grid(ABLATION), SMALL, arm).settings
    assert isinstance(settings, Settings)
    training, data = settings.training, settings.data
    torch.manual_seed(0)
    stepper = Stepper(build_recogniser(settings.model, training.recompute), training, "cpu", total_steps=1000)
    shape_BTCHW = (training.batch_size, settings.model.num_frames, 3, data.frame_size, data.frame_size)
    held = [
        MicroBatch(torch.zeros(shape_BTCHW, dtype=torch.uint8), torch.zeros(shape_BTCHW[0], dtype=torch.int64))
        for _ in range(training.gradient_accumulation_steps)
    ]

    def step() -> object:
        handed_over = (MicroBatch(one.clips_BTCHW.clone(), one.labels_B.clone()) for one in held)
        return stepper.step(handed_over, training.effective_batch)

    step()
    return step


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

"""Counts what the optimisations save: live bytes of whole training steps on fake tensors, which need no memory.

They use the small preset of the ablation: 16 frames of 112 x 112, base_channels 16, effective batch 16. This counter is
independent of the bench's tracer: it only watches storages come and go.
"""

import weakref
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.config import Settings, load_settings
from models.networks.efficient import build_recogniser
from models.training.efficient_trainer import MemoryTracker
from models.training.stepper import Stepper

CONFIGS = Path(__file__).parent.parent / "configs"
SMALL = {"model.num_classes": 20, "model.base_channels": 16, "data.frame_size": 112}


class LiveBytes(TorchDispatchMode):
    """Sums the live storages; ``peak`` is the most since it was last set."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self._known = 0, 0, set()

    def watch(self, tensor):
        storage = tensor.untyped_storage()
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())

    def _gone(self, key, size):
        self._known.discard(key)
        self.live -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.watch(leaf)
        return result


@dataclass
class FakeBatch:
    clips_BTCHW: torch.Tensor
    labels_B: torch.Tensor


def batches(settings):
    size, frames = settings.data.frame_size, settings.model.num_frames
    for _ in range(settings.training.gradient_accumulation_steps):
        yield FakeBatch(
            torch.zeros(settings.training.batch_size, frames, 3, size, size, dtype=torch.uint8),
            torch.zeros(settings.training.batch_size, dtype=torch.int64),
        )


def peak_bytes(settings: Settings) -> int:
    """Return the live bytes at the peak of the second step, with optimizer state and parameters."""
    mode, counter = FakeTensorMode(), LiveBytes()
    model = build_recogniser(settings.model, settings.training.recompute)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(mode.from_tensor(parameter.data)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, mode.from_tensor(buffer))
    for tensor in [*model.parameters(), *model.buffers()]:
        counter.watch(tensor)
    stepper = Stepper(model, settings.training, "cpu", total_steps=10)
    with mode, counter:
        for _ in range(2):
            counter.peak = 0
            stepper.step(batches(settings), settings.training.effective_batch)
    return counter.peak


def small(config, **changes):
    return load_settings(CONFIGS / config, SMALL | {key.replace("__", "."): value for key, value in changes.items()})


@pytest.fixture(scope="module")
def baseline():
    return peak_bytes(small("baseline.yml", training__batch_size=16))


def test_optimized_step_needs_an_eighth_of_the_baseline(baseline):
    optimized = peak_bytes(small("efficient_training.yml", training__batch_size=4))
    assert baseline >= 8 * optimized


@pytest.mark.parametrize(
    "change",
    [
        {"model__temporal_shift": "memory_efficient"},
        {"training__batch_size": 4, "training__gradient_accumulation_steps": 4},
        {"training__mixed_precision": True},
        {"training__recompute": "stage"},
        {"training__recompute": "block"},
    ],
)
def test_each_optimisation_alone_lowers_the_peak(baseline, change):
    assert peak_bytes(small("baseline.yml", **({"training__batch_size": 16} | change))) < 0.95 * baseline


def test_counter_equals_a_size_known_in_closed_form():
    with LiveBytes() as counter:
        kept = torch.zeros(1000)
        gone = torch.zeros(500)
        view = kept[10:]
        del gone
        assert (counter.live, counter.peak) == (4000, 6000)
        assert view.untyped_storage().nbytes() == 4000


def test_tracker_reads_this_machine():
    stats = MemoryTracker().check_memory()
    assert {"gpu_allocated", "gpu_reserved", "gpu_total", "ram_used", "ram_percent", "gpu_available"} <= set(stats)
    assert 0 < stats["ram_percent"] <= 100

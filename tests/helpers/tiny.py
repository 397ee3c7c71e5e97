"""A network and batches small enough that a whole training takes a fraction of a second."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import torch
from torch import nn

from models.config import TrainingConfig
from models.training.efficient_trainer import Trainer
from models.training.loaders import Splits
from models.training.memory import MemoryTracker, OwnPeaks
from models.training.micro_batches import MicroBatches
from models.training.stepper import Stepper
from slr_bench.probes.host import HostMemory

CLASSES = 3


@dataclass(frozen=True)
class TinyBatch:
    clips_BTCHW: torch.Tensor
    labels_B: torch.Tensor
    video_ids: tuple[str, ...]


class TinyNet(nn.Module):
    """A network with batch norm and dropout, which are the first to go wrong on resume and in recomputation."""

    def __init__(self, norm=True, dropout=0.3):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.bn = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, clips_BTCHW):
        x = self.conv(clips_BTCHW.flatten(0, 1).to(self.conv.weight.dtype) / 255)
        x = torch.relu(self.bn(x)).mean((2, 3)).unflatten(0, clips_BTCHW.shape[:2]).mean(1)
        return self.head(self.dropout(x))


class TinyLoader:
    """A split in memory with the interface of the real loader; the order depends on the epoch alone."""

    def __init__(self, clips, batch_size, shuffle=True):
        generator = torch.Generator().manual_seed(7)
        self.indices = range(clips)
        self.labels_N = torch.arange(clips) % CLASSES
        noise = torch.randint(0, 60, (clips, 2, 3, 9, 9), generator=generator)
        self.clips_NTCHW = (noise + 80 * self.labels_N.view(-1, 1, 1, 1, 1)).to(torch.uint8)
        self.batch_size, self.shuffle, self.epoch = batch_size, shuffle, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return self.batches()

    cache_bytes = 0

    def shed(self, what):
        return None

    def batches(self, first=0):
        order = torch.arange(len(self.indices))
        if self.shuffle:
            order = torch.randperm(len(order), generator=torch.Generator().manual_seed(self.epoch))
        for part in order.split(self.batch_size)[first:]:
            yield TinyBatch(self.clips_NTCHW[part], self.labels_N[part], tuple(f"v{i}" for i in part.tolist()))


def tiny_config(**changes):
    values = {
        "batch_size": 4, "gradient_accumulation_steps": 2, "precision": "fp32", "epochs": 3, "learning_rate": 0.01,
        "enable_memory_tracking": False,
    }  # fmt: skip
    return TrainingConfig.model_validate(values | changes)


def tiny_trainer(config, total_steps, train, val, model=None):
    """A trainer on the CPU whose checkpoints hold the training section alone."""
    stepper = Stepper(model or TinyNet(), config, "cpu", total_steps)
    return Trainer(stepper, MicroBatches(stepper), Splits(train, val))


class NoPeaks(OwnPeaks):
    """Peaks that the test sets. The real process of the tests has held much more than it holds now."""

    over_now_bytes = 0
    resets = 0

    def rss_over_now_bytes(self):
        return self.over_now_bytes

    def reset(self):
        self.resets += 1


def fake_tracker(ram_percent, gpu_percent=lambda: 0.0, peaks=None, own_gib=10.0, **thresholds):
    """A tracker on a machine with 10 GiB of RAM and a GPU of 10 GiB; half a percent of it is used between steps.

    The RAM is this training's, unless ``own_gib`` is smaller.
    """
    gib = 2**30

    def read_gpu():
        percent = gpu_percent()
        gpu = {"gpu_allocated": 0.05, "gpu_reserved": 0.0, "gpu_peak_allocated": percent / 10, "gpu_total": 10.0}
        return {"gpu_available": percent > 0, "gpu_percent": percent, **gpu}

    return MemoryTracker(
        read_host=lambda: HostMemory(round(ram_percent() / 100 * 10 * gib), 10 * gib, "cgroup v2"),
        read_gpu=read_gpu,
        peaks=peaks or NoPeaks(),
        read_own=lambda: round(own_gib * gib),
        **thresholds,
    )


def interrupt_after(trainer, steps, signal_number=signal.SIGTERM):
    """Send this process the signal during attempt number ``steps`` at an optimizer step."""
    plain, attempts = trainer.stepper.accumulate, []

    def accumulate(micro_batches, clips):
        attempts.append(1)
        if len(attempts) == steps:
            os.kill(os.getpid(), signal_number)
        return plain(micro_batches, clips)

    trainer.stepper.accumulate = accumulate
    return trainer

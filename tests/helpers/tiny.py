"""A network and batches small enough that a whole training takes a fraction of a second."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from models.config import TrainingConfig

CLASSES = 3


@dataclass(frozen=True)
class TinyBatch:
    clips_BTCHW: torch.Tensor
    labels_B: torch.Tensor
    video_ids: tuple[str, ...]


class TinyNet(nn.Module):
    """Batch norm and dropout are in it: what resume and recomputation get wrong first."""

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
    """A split in memory, with the interface of the real loader: the order depends on the epoch alone."""

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
        order = torch.arange(len(self.indices))
        if self.shuffle:
            order = torch.randperm(len(order), generator=torch.Generator().manual_seed(self.epoch))
        for part in order.split(self.batch_size):
            yield TinyBatch(self.clips_NTCHW[part], self.labels_N[part], tuple(f"v{i}" for i in part.tolist()))


def tiny_config(**changes):
    values = {
        "batch_size": 4, "gradient_accumulation_steps": 2, "precision": "fp32", "epochs": 3, "learning_rate": 0.01,
        "enable_memory_tracking": False,
    }  # fmt: skip
    return TrainingConfig.model_validate(values | changes)

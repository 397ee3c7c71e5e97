"""Accuracy on a split. No gradients, no batch statistics.

B clip, T frame, C channel, H height, W width, K sign class
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slr_bench.errors import DataError


class ClipBatch(Protocol):
    """What a loader yields."""

    @property
    def clips_BTCHW(self) -> Tensor: ...
    @property
    def labels_B(self) -> Tensor: ...
    @property
    def video_ids(self) -> Iterable[str]: ...


@dataclass(frozen=True)
class Evaluation:
    """Fractions of 1. ``per_class_top1`` is the mean over the classes that occur, each weighing the same."""

    top1: float
    top5: float
    per_class_top1: float
    loss: float
    clips: int


def evaluate(
    model: nn.Module, batches: Iterable[ClipBatch], device: torch.device, autocast: AbstractContextManager[object]
) -> Evaluation:
    """Run ``model`` over ``batches`` in evaluation mode; the mode it was in comes back afterwards.

    The loss is plain cross-entropy (no label smoothing), mean over clips. Of fewer than five classes, top-5 is 1.

    Raises:
        DataError: there are no clips.
    """
    was_training = model.training
    model.eval()
    try:
        rows = [_scored(model, batch, device, autocast) for batch in batches]
    finally:
        model.train(was_training)
    if not rows:
        raise DataError("nothing to evaluate: the split has no clips; check the split file and the videos")
    labels_B, rank_B, loss_B = (torch.cat(column) for column in zip(*rows, strict=True))
    first_B = (rank_B == 0).double()
    clips_of_K = torch.bincount(labels_B)
    right_of_K = torch.bincount(labels_B, weights=first_B)
    occurs_K = clips_of_K > 0
    return Evaluation(
        top1=first_B.mean().item(),
        top5=(rank_B < 5).double().mean().item(),
        per_class_top1=(right_of_K[occurs_K] / clips_of_K[occurs_K]).mean().item(),
        loss=loss_B.double().mean().item(),
        clips=len(labels_B),
    )


@torch.no_grad()
def _scored(
    model: nn.Module, batch: ClipBatch, device: torch.device, autocast: AbstractContextManager[object]
) -> tuple[Tensor, Tensor, Tensor]:
    """Label, rank of the true class (0 is best) and loss of every clip; three numbers a clip stay, on the CPU."""
    labels_B = batch.labels_B.to(device, non_blocking=True)
    with autocast:
        logits_BK = model(batch.clips_BTCHW.to(device, non_blocking=True)).float()
    own_B1 = logits_BK.gather(1, labels_B.unsqueeze(1))
    rank_B = (~(logits_BK < own_B1)).sum(1) - 1  # a tie counts against the model, and so does NaN
    return labels_B.cpu(), rank_B.cpu(), F.cross_entropy(logits_BK, labels_B, reduction="none").cpu()

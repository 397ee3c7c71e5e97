"""Accuracy on a split, computed without gradients and without batch statistics.

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
    """A batch of clips as a loader yields it."""

    @property
    def clips_BTCHW(self) -> Tensor: ...
    @property
    def labels_B(self) -> Tensor: ...
    @property
    def video_ids(self) -> Iterable[str]: ...


@dataclass(frozen=True)
class Evaluation:
    """Accuracies as fractions of 1, per instance and per class as in the WLASL papers.

    ``top5`` is the share of clips whose true class is among the five highest scores. ``per_class_top5`` is the mean of
    that share over the classes that occur, so that each class has the same weight.
    """

    top1: float
    top5: float
    top10: float
    per_class_top1: float
    per_class_top5: float
    per_class_top10: float
    loss: float
    clips: int
    ranks: dict[str, int]
    """Rank of the true class by video id, 0 is best; used to compare two trainings clip by clip."""


def evaluate(
    model: nn.Module, batches: Iterable[ClipBatch], device: torch.device, autocast: AbstractContextManager[object]
) -> Evaluation:
    """Run ``model`` over ``batches`` in evaluation mode, and restore its mode afterwards.

    The loss is plain cross-entropy (no label smoothing), averaged over clips. With at most five classes, top-5 is 1.

    Raises:
        DataError: there are no clips.
    """
    was_training = model.training
    model.eval()
    try:
        rows, ids = [], list[str]()
        for batch in batches:
            ids += batch.video_ids
            rows.append(_scored(model, batch, device, autocast))
    finally:
        model.train(was_training)
    if not rows:
        raise DataError("nothing to evaluate: the split has no clips; check the split file and the videos")
    labels_B, rank_B, loss_B = (torch.cat(column) for column in zip(*rows, strict=True))
    hits = {places: (rank_B < places).double() for places in (1, 5, 10)}
    return Evaluation(
        **{f"top{places}": hit_B.mean().item() for places, hit_B in hits.items()},
        **{f"per_class_top{places}": _mean_over_classes(hit_B, labels_B) for places, hit_B in hits.items()},
        loss=loss_B.double().mean().item(),
        clips=len(labels_B),
        ranks=dict(zip(ids, rank_B.tolist(), strict=True)),
    )


def _mean_over_classes(hit_B: Tensor, labels_B: Tensor) -> float:
    clips_K, hits_K = torch.bincount(labels_B), torch.bincount(labels_B, weights=hit_B)
    occurs_K = clips_K > 0
    return (hits_K[occurs_K] / clips_K[occurs_K]).mean().item()


@torch.no_grad()
def class_logits(
    model: nn.Module, clips_BTCHW: Tensor, device: torch.device, autocast: AbstractContextManager[object]
) -> Tensor:
    """Return the fp32 ``logits_BK`` of clips as a loader yields them, on ``device``."""
    with autocast:
        logits_BK: Tensor = model(clips_BTCHW.to(device, non_blocking=True))
    return logits_BK.float()


def _scored(
    model: nn.Module, batch: ClipBatch, device: torch.device, autocast: AbstractContextManager[object]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return label, rank of the true class (0 is best) and loss of every clip, on the CPU."""
    labels_B = batch.labels_B.to(device, non_blocking=True)
    logits_BK = class_logits(model, batch.clips_BTCHW, device, autocast)
    own_B1 = logits_BK.gather(1, labels_B.unsqueeze(1))
    rank_B = (~(logits_BK < own_B1)).sum(1) - 1  # a tie counts against the model, and NaN does too
    return labels_B.cpu(), rank_B.cpu(), F.cross_entropy(logits_BK, labels_B, reduction="none").cpu()

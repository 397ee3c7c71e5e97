"""The trainer's side of data loading: epochs that can resume at any step, and batches split to fit in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from models.config import Settings
from models.networks.backbone import FrozenBackbone
from models.training.evaluation import ClipBatch
from models.training.optimization import autocast

if TYPE_CHECKING:
    from models.data.loading.clips import Loaders

Sheddable = Literal["cache", "prefetch", "workers"]
"""Memory that a loader can give back, the least harmful first."""


class EpochLoader(Protocol):
    """A split of ``len(indices)`` clips in batches; the order of epoch n is the same every time."""

    @property
    def indices(self) -> Sequence[int]: ...

    @property
    def cache_bytes(self) -> int:
        """The most that its cache of clips can hold."""
        ...

    def set_epoch(self, epoch: int) -> None: ...

    def batches(self, first: int = 0) -> Iterator[ClipBatch]:
        """Yield the epoch from batch number ``first`` on. Draws no random numbers from the model's generators."""
        ...

    def shed(self, what: Sheddable) -> str | None:
        """Give memory back and describe it; return None if there is nothing to give. Ends the running ``batches``."""
        ...


class Splits(NamedTuple):
    """The loaders of one training."""

    train: EpochLoader
    val: EpochLoader


class LoadedEpoch:
    """The batches of one epoch as the loader makes them, one step's window at a time.

    A step that is repeated loads its clips again, so nothing holds a whole window. No clip is lost or used twice,
    because the order depends on the epoch alone.
    """

    def __init__(self, loader: EpochLoader, accumulation: int, epoch: int, step: int) -> None:
        self.clips = len(loader.indices)
        self._loader, self._accumulation = loader, accumulation
        loader.set_epoch(epoch)
        self.restart(step)

    def restart(self, step: int) -> None:
        """Load from optimizer step ``step`` of the epoch on."""
        self._batches = self._loader.batches(step * self._accumulation)

    def window(self) -> Iterator[ClipBatch]:
        """Yield the batches of the next step."""
        return islice(self._batches, self._accumulation)


class SplitBatches(Iterator[ClipBatch]):
    """Micro-batches of at most ``size`` clips, each loaded batch split as evenly as possible.

    Holds at most one loaded batch, and releases it with its last piece. Pieces are views of the batch. This is a class
    because the frame of a generator would keep a batch alive while the next one is loaded.
    """

    def __init__(self, batches: Iterable[ClipBatch], size: int) -> None:
        self._batches, self._size = iter(batches), size
        self._pieces: list[ClipBatch] = []

    def __next__(self) -> ClipBatch:
        if not self._pieces:
            self._pieces = _split(next(self._batches), self._size)
        return self._pieces.pop()


def _split(batch: Any, size: int) -> list[ClipBatch]:
    """Return the pieces of a batch, the last one first. Only fields with one entry per clip are split."""
    clips = len(batch.labels_B)
    count = -(-clips // size)
    if count <= 1:
        return [batch]
    bounds = [clips * number // count for number in range(count + 1)]
    entries = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    per_clip = {name for name, value in entries.items() if hasattr(value, "__len__") and len(value) == clips}
    return [
        dataclasses.replace(batch, **{name: entries[name][first:end] for name in per_clip})
        for first, end in reversed(list(pairwise(bounds)))
    ]


def with_stored_features(loaders: Loaders, model: nn.Module, settings: Settings, device: torch.device) -> Loaders:
    """Return ``loaders``, or with ``settings.keeps_features`` loaders of the features of ``model``'s frozen backbone.

    Features are computed on ``device`` in the compute type of the training, as the network itself would compute them.
    """
    if not settings.keeps_features:
        return loaders
    from models.data.loading.feature_loader import FeatureLoader  # decoding is needed only by those who load clips

    backbone = model.get_submodule("backbone")
    assert isinstance(backbone, FrozenBackbone)

    def extract(clips_BTCHW: Tensor) -> Tensor:
        with autocast(device, settings.training):
            return backbone(clips_BTCHW.to(device)).cpu()

    loaders.close()
    loader = FeatureLoader(loaders.train.loader.clips, settings, extract, backbone.version)
    splits = (loaders.train, loaders.val, loaders.test)
    train, val, test = (dataclasses.replace(split, loader=loader) for split in splits)
    return dataclasses.replace(loaders, train=train, val=val, test=test)

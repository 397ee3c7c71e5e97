"""Batches of decoded clips for each split; the trainer iterates over them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from models.config import Settings
from models.data.left_out import some_of
from models.data.loading.batches import Batch, Ticket
from models.data.loading.loader_pool import ClipLoader, Shed
from models.data.manifest import SPLITS, Manifest
from models.data.wlasl import load_manifest
from slr_bench.errors import ConfigError
from slr_bench.units import MIB, format_bytes


@dataclass(frozen=True)
class SplitLoader:
    """One split of a ``ClipLoader``, iterable like a DataLoader. The last batch may be smaller.

    Order and augmentation depend on (seed, epoch, clip) only: not on processes, cache or what was loaded before.
    """

    loader: ClipLoader
    indices: tuple[int, ...]
    """The split's clips among all clips of the loader."""
    batch_size: int
    seed: int
    shuffle: bool
    augment: bool
    _epoch: list[int] = field(default_factory=lambda: [0])

    @property
    def cache_bytes(self) -> int:
        """The most that the cache of all splits can hold; 0 without one."""
        return self.loader.cache_bytes

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next iteration: another order and other random draws."""
        self._epoch[0] = epoch

    def __len__(self) -> int:
        """Batches per epoch."""
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """Iterate over the epoch from batch number ``first`` on. Clips before it are not read."""
        return self.loader.epoch(self.tickets(first))

    def shed(self, what: Shed) -> str | None:
        """Give up memory as ``ClipLoader.shed`` does, for all splits. An open epoch ends; continue with ``batches``."""
        return self.loader.shed(what)

    def tickets(self, first: int = 0) -> list[Ticket]:
        """The epoch's batches from number ``first`` on, before anything is read. They count from 0."""
        order = np.array(self.indices, dtype=np.int64)
        if self.shuffle:
            np.random.default_rng((self.seed, self._epoch[0])).shuffle(order)
        starts = range(first * self.batch_size, len(order), self.batch_size)
        parts = (order[start : start + self.batch_size].tolist() for start in starts)
        return [Ticket(number, self._epoch[0], tuple(part), self.augment) for number, part in enumerate(parts)]


@dataclass(frozen=True)
class Loaders:
    """The splits of a data directory. They share their processes: finish one epoch before the next."""

    manifest: Manifest
    train: SplitLoader
    """Shuffled, augmented if ``data.augment``."""
    val: SplitLoader
    test: SplitLoader
    """The test split, for the last evaluation only; empty in many directories."""

    @property
    def damage_text(self) -> str | None:
        """One line on the clips loaded so far that hold damaged pictures; None if there is none."""
        damaged = self.train.loader.concealed
        if not damaged:
            return None
        return (
            f"clips with damaged pictures, which the decoder replaced by guesses: {len(damaged)} "
            f"({some_of(sorted(damaged))}); fetch these files again, or remove them"
        )

    @property
    def remarks(self) -> list[str]:
        """Lines on the clips loaded so far that a user should know of."""
        return [text for text in (self.padding_text, self.damage_text) if text]

    @property
    def padding_text(self) -> str | None:
        """One line on the clips loaded so far that are too short; None if there is none."""
        loader = self.train.loader
        if not loader.padded:
            return None
        frames = loader.num_frames
        return (
            f"clips shorter than model.num_frames={frames}: {len(loader.padded)} ({some_of(sorted(loader.padded))}), "
            f"padded with {sum(loader.padded.values())} frames (their last one, repeated)"
        )

    def close(self) -> None:
        """End the loader processes; they start again when they are needed."""
        self.train.loader.close()


def build_loaders(settings: Settings, manifest: Manifest | None = None) -> Loaders:
    """Loaders for ``settings.data.dir``. Reads its manifest if none is given; opens no video and starts no process yet.

    Raises:
        ConfigError: no directory is set.
        DataError: the directory cannot be used.
    """
    if settings.data.dir is None:
        raise ConfigError("data.dir is not set; name a data directory (--data-dir)")
    for unwise in _unwise(settings):
        warnings.warn(unwise, stacklevel=2)
    manifest = manifest or load_manifest(settings.data.dir, settings.model.num_classes)
    clips = tuple(clip for split in SPLITS for clip in manifest.clips[split])
    loader = ClipLoader(clips, settings)
    splits = {
        split: SplitLoader(
            loader=loader,
            indices=tuple(index for index, clip in enumerate(clips) if clip.split == split),
            batch_size=settings.training.batch_size,
            seed=settings.training.seed,
            shuffle=split == "train",
            augment=split == "train" and settings.data.augment,
        )
        for split in SPLITS
    }
    return Loaders(manifest=manifest, **splits)


def _unwise(settings: Settings) -> Iterator[str]:
    model, processes, cores = settings.model, settings.data.num_workers, len(os.sched_getaffinity(0))
    if processes > cores:
        yield f"data.num_workers: {processes} is more than the cores that this process may run on; use {cores} or fewer"
    clip_bytes, caches = settings.cached_clip_bytes, max(1, processes)
    if (
        model.enable_feature_caching
        and not settings.keeps_features
        and model.cache_size_limit_mb * MIB // caches < clip_bytes
    ):
        yield (
            f"model.cache_size_limit_mb: {model.cache_size_limit_mb} cannot hold one training clip "
            f"({format_bytes(clip_bytes)}) in each of {caches} processes: they are decoded anew in each epoch; use "
            f"{-(-caches * clip_bytes // MIB)} or more, or model.enable_feature_caching: false"
        )

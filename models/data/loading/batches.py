"""Make a whole batch of clips from one ticket, in the process that receives the ticket.

B clip, T frame, C channel, H height, W width.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from models.config import Settings
from models.data.loading.clip_reader import ClipReader
from models.data.loading.feature_cache import ClipCache
from models.data.loading.frame_budget import FrameBudget
from models.data.loading.transforms import Augmentation
from models.data.manifest import ClipInfo
from slr_bench.errors import DataError
from slr_bench.units import MIB, plain


@dataclass(frozen=True)
class Batch:
    """One batch of clips, as the training step takes it."""

    clips_BTCHW: torch.Tensor
    """uint8 RGB; from a ``FeatureLoader`` the features (B, T, D) of a frozen backbone."""
    labels_B: torch.Tensor
    """int64 class ids."""
    video_ids: tuple[str, ...]
    padded_B: tuple[int, ...]
    """Frames of each clip that only repeat its last one, because it is shorter than T."""
    concealed_B: tuple[int, ...] = ()
    """Damaged frames of each clip that the decoder replaced by guesses; empty if there are none in the batch."""


@dataclass(frozen=True)
class Ticket:
    """One batch to be made: its position in the epoch, and what its random draws depend on."""

    number: int
    epoch: int
    clips: tuple[int, ...]
    """Indices into all clips, training and validation."""
    augment: bool


@dataclass(frozen=True)
class Answer:
    """The batch of a ticket, or the reason why there is none."""

    frames: int
    """Permits held for it."""
    content: Batch | DataError | None
    """None: the epoch was given up before the batch was begun."""


class BatchDataset(Dataset[Answer]):
    """Makes one whole batch per ticket, so that the permits for its frames are taken together."""

    def __init__(self, clips: tuple[ClipInfo, ...], settings: Settings, budget: FrameBudget) -> None:
        processes = max(1, settings.data.num_workers)
        limit_bytes = settings.model.cache_size_limit_mb * MIB // processes
        self._clips, self._settings, self._budget = clips, settings, budget
        keeps_clips = settings.model.enable_feature_caching and not settings.keeps_features
        threads = max(1, len(os.sched_getaffinity(0)) // processes)
        self._reader = ClipReader.of(settings, threads, ClipCache(limit_bytes) if keeps_clips else None)

    def __getitem__(self, ticket: Ticket) -> Answer:
        """Decode the ticket's clips. A DataError is returned, not raised: raised, it would come with a traceback."""
        frames = len(ticket.clips) * self._settings.model.num_frames
        if not self._budget.acquire(ticket.number, frames):
            return Answer(0, None)
        try:
            with one_torch_thread():
                return Answer(frames, self._make(ticket))
        except DataError as error:
            command = f"python -m models.data.wlasl check {self._settings.data.dir} --decode --leave-out"
            return Answer(frames, DataError(f"{error} ({command} finds all such clips and leaves them out)"))

    def _make(self, ticket: Ticket) -> Batch:
        model, size = self._settings.model, self._settings.data.frame_size
        clips = [self._clips[index] for index in ticket.clips]
        clips_BTCHW = torch.empty((len(clips), model.num_frames, 3, size, size), dtype=torch.uint8)
        if get_worker_info() is not None:
            clips_BTCHW.share_memory_()  # filled where the other process will read it: no second copy of the batch
        padded = []
        for place, index in enumerate(ticket.clips):
            augmentation = None
            if ticket.augment:
                rng = np.random.default_rng((self._settings.training.seed, ticket.epoch, index))
                augmentation = Augmentation.draw(rng, model.num_frames, self._settings.data)
            try:
                padded.append(self._reader.read_into(clips_BTCHW[place], clips[place], augmentation))
            except DataError as error:
                if "/" not in clips[place].video_id:  # the message has the name of the file, which is enough
                    raise
                raise DataError(f"{plain(clips[place].video_id)}: {error}") from error
        labels_B = torch.tensor([clip.label for clip in clips])
        concealed = tuple(self._reader.concealed.get(clip.video_id, 0) for clip in clips)
        names = tuple(clip.video_id for clip in clips)
        return Batch(clips_BTCHW, labels_B, names, tuple(padded), concealed if any(concealed) else ())


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Use one torch thread while decoding in the training process; pictures are too small to share between threads.

    Measured on two busy cores: 86 ms per clip with one thread, 400 ms with two that wait for each other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

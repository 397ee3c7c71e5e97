"""The loader's keys. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from models.config.base import Amount, Count, Flag, Frozen


class DataConfig(Frozen):
    """Where clips come from and how many frames may be in memory on the way."""

    dir: Path | None = None
    """Data directory in WLASL layout: annotation list, nslt_N.json, class list, videos/."""
    frame_size: Annotated[int, Field(strict=True, ge=32, le=4096)] = 224
    """Height and width of the frames the loader yields, pixels."""
    chunk_size: Count = 32
    """Frames converted to RGB and resized at a time by the reader."""
    max_frames_in_memory: Count | None = 256
    """Frames the loader may own at once, from decoder to prefetched batch, workers included; null: no limit."""
    num_workers: Amount = 2
    """Loader processes; 0 decodes in the training process."""
    prefetch_batches: Count = 2
    """Batches a loader process prepares ahead."""
    augment: Flag = True
    """Random crop, time jitter and colour jitter on the training split. Never mirrors: it changes the sign."""
    time_crop: Annotated[float, Field(ge=0.0, le=0.4)] = 0.0
    """Largest part of a training clip that is cut off at random before, and again after, what is sampled: other speeds
    and onsets."""
    rotation_degrees: Annotated[float, Field(ge=0.0, le=45.0)] = 0.0
    """Training clips are turned at random by up to this, either way."""
    channel_shuffle: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Probability that a training clip's red, green and blue are exchanged at random: where colours mean nothing."""

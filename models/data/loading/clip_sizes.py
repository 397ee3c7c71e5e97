"""How many frames of what size the loader reads and keeps of a clip. No torch."""

from __future__ import annotations

from models.config import DataConfig, Settings


def working_size(frame_size: int) -> int:
    """Side of the square that crops are cut from, as 256 is to 224."""
    return round(frame_size * 8 / 7)


def frames_per_segment(data: DataConfig) -> int:
    """Frames of each of a clip's T segments that time jitter picks from: few, so that a cached clip serves every epoch.

    A random part of the clip, slower than the whole, needs frames that lie closer together.
    """
    return 4 if data.time_crop else 2


def frame_bytes(settings: Settings) -> int:
    """A frame that the loader yields: uint8 RGB."""
    return 3 * settings.data.frame_size**2


def cached_clip_bytes(settings: Settings) -> int:
    """A training clip in the cache: all frames that time jitter picks from, wider than the crop."""
    per_place = frames_per_segment(settings.data) if settings.data.augment else 1
    return per_place * settings.model.num_frames * 3 * working_size(settings.data.frame_size) ** 2

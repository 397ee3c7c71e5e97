"""Read one clip, from its file or from the cache, into its row of a batch.

T frame, C channel, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from models.config import Settings, working_size
from models.data.loading.feature_cache import ClipCache
from models.data.loading.transforms import Augmentation, centre_crop
from models.data.manifest import ClipInfo
from models.data.video.clip_location import MIDDLE, Square, bbox_square, frame_range
from models.data.video.reader import Chunk, open_video, segment_candidates, uniform_indices
from models.layers.region_focus import motion_box, resample


class _ClipLocation(NamedTuple):
    """The frames and the square of a clip in its video file."""

    frames: tuple[int, int]
    square: Square | None
    """None means the middle square."""


@dataclass(frozen=True)
class ClipReader:
    """Reads clips in one process.

    The cache holds a clip's frames as decoded, scaled and cut square, before any random change, and for training all
    the frames that time jitter may pick (``frames_per_segment`` x T). Jitter draws from that set with or without a
    cache, so caching changes no pixel. Cached frames count against the cache's limit, not the frame budget.
    """

    num_frames: int
    frames_per_segment: int
    frame_size: int
    chunk_size: int
    threads: int
    cache: ClipCache | None
    cut_to_bbox: bool = False
    """``region_focus: manifest``: the bbox's square instead of the middle one, at the same size; where a bbox does not
    apply, the finished clip is focused by motion."""
    concealed: dict[str, int] = field(default_factory=dict)
    """Clips with damaged frames that the decoder replaced by guesses: id to number of frames."""
    _locations: dict[str, _ClipLocation] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings, threads: int, cache: ClipCache | None = None) -> ClipReader:
        """Return the reader for the network and the frames of ``settings``."""
        model, data = settings.model, settings.data
        return cls(
            num_frames=model.num_frames,
            frames_per_segment=data.frames_per_segment,
            frame_size=data.frame_size,
            chunk_size=data.chunk_size,
            threads=threads,
            cache=cache,
            cut_to_bbox=model.region_focus == "manifest",
        )

    def read_into(self, out_TCHW: torch.Tensor, clip: ClipInfo, augmentation: Augmentation | None) -> int:
        """Fill ``out_TCHW`` (uint8) with the clip; return how many of its frames are repeats.

        Without ``augmentation`` the centre of the clip is taken.

        Raises:
            DataError: the file cannot be read.
        """
        span, square = self._locate(clip)
        if augmentation is None:
            chosen_T, padded = uniform_indices(*span, self.num_frames)
            kept = chosen_T
        else:
            candidates_TV, padded = segment_candidates(*span, self.num_frames, self.frames_per_segment)
            chosen_T = candidates_TV.flatten()[augmentation.place_T]
            kept = candidates_TV
        for numbers_T, frames_THWC in self._chunks(clip, np.unique(kept), np.unique(chosen_T)):
            frames_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)
            if augmentation is None:
                frames_TCHW = centre_crop(frames_TCHW, self.frame_size)
            else:
                frames_TCHW = augmentation.apply(frames_TCHW, self.frame_size)
            # Both ascend, so a chunk's frames go to one run of places; a repeated frame fills several.
            first, end = np.searchsorted(chosen_T, [numbers_T[0], numbers_T[-1] + 1])
            places = torch.from_numpy(np.searchsorted(numbers_T, chosen_T[first:end]))
            torch.index_select(frames_TCHW, 0, places, out=out_TCHW[first:end])  # whole frames at a time, unlike x[i]
        if self.cut_to_bbox and square is None:
            clips_BTCHW = out_TCHW.unsqueeze(0)
            clips_BTCHW.copy_(resample(clips_BTCHW, motion_box(clips_BTCHW), self.frame_size))
        return padded

    def _locate(self, clip: ClipInfo) -> _ClipLocation:
        # Remembered, so that a cached clip's file is not opened again.
        if clip.video_id not in self._locations:
            with open_video(clip.path, threads=self.threads) as video:
                span = frame_range(clip, video)
                square = bbox_square(clip.bbox, *video.size) if self.cut_to_bbox and clip.bbox else None
            self._locations[clip.video_id] = _ClipLocation(span, square)
        return self._locations[clip.video_id]

    def _chunks(self, clip: ClipInfo, kept: NDArray[np.int64], chosen: NDArray[np.int64]) -> Iterator[Chunk]:
        side = working_size(self.frame_size)
        key = (clip.video_id, tuple(kept.tolist()), side)
        stored_THWC = self.cache.get(key) if self.cache is not None else None
        if stored_THWC is None:
            if self.cache is None or not self.cache.has_room(len(kept) * side * side * 3):
                yield from self._decode(clip, chosen)
                return
            stored_THWC = torch.empty((len(kept), side, side, 3), dtype=torch.uint8)
            filled = 0
            for numbers_T, frames_THWC in self._decode(clip, kept):
                stored_THWC[filled : filled + len(numbers_T)] = torch.from_numpy(frames_THWC)
                filled += len(numbers_T)
            self.cache.put(key, stored_THWC)
        for first in range(0, len(chosen), self.chunk_size):
            numbers_T = chosen[first : first + self.chunk_size]
            yield Chunk(numbers_T, stored_THWC.numpy()[np.searchsorted(kept, numbers_T)])

    def _decode(self, clip: ClipInfo, numbers: NDArray[np.int64]) -> Iterator[Chunk]:
        """Decode a square of the frames, so that all clips become equally large."""
        side = working_size(self.frame_size)
        square = self._locate(clip).square or MIDDLE
        short_side = round(side / square.side)
        with open_video(clip.path, threads=self.threads) as video:
            for numbers_T, frames_THWC in video.chunks(numbers, short_side=short_side, chunk_size=self.chunk_size):
                height, width = frames_THWC.shape[1:3]
                top, left = int(square.down * (height - side)), int(square.right * (width - side))
                yield Chunk(numbers_T, frames_THWC[:, top : top + side, left : left + side])
            if video.concealed:
                self.concealed[clip.video_id] = max(len(video.concealed), self.concealed.get(clip.video_id, 0))

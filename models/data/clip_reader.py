"""One clip from file, or cache, into its place in a batch.

T frame, C channel, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from models.data.feature_cache import ClipCache
from models.data.transforms import Augmentation, centre_crop, working_size
from models.data.video import Chunk, open_video, segment_candidates, uniform_indices
from models.data.wlasl import ClipInfo
from slr_bench.errors import DataError


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
    _ranges: dict[str, tuple[int, int]] = field(default_factory=dict)

    def read_into(self, out_TCHW: torch.Tensor, clip: ClipInfo, augmentation: Augmentation | None) -> int:
        """Fill ``out_TCHW`` (uint8) with the clip, without ``augmentation`` its centre; how many frames are repeats.

        Raises:
            DataError: the file cannot be read.
        """
        span = self._range(clip)
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
        return padded

    def _range(self, clip: ClipInfo) -> tuple[int, int]:
        # Remembered, so that a cached clip's file is not opened again.
        if clip.video_id not in self._ranges:
            with open_video(clip.path, threads=self.threads) as video:
                self._ranges[clip.video_id] = frame_range(clip, video.frames, video.fps)
        return self._ranges[clip.video_id]

    def _chunks(self, clip: ClipInfo, kept: NDArray[np.int64], chosen: NDArray[np.int64]) -> Iterator[Chunk]:
        side = working_size(self.frame_size)
        if self.cache is None or not self.cache.accepts(len(kept) * side * side * 3):
            yield from self._decode(clip, chosen)
            return
        key = (clip.video_id, tuple(kept.tolist()), side)
        stored_THWC = self.cache.get(key)
        if stored_THWC is None:
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
        """The middle square of the frames: signers stand there, and all clips become equally large."""
        side = working_size(self.frame_size)
        with open_video(clip.path, threads=self.threads) as video:
            for numbers_T, frames_THWC in video.chunks(numbers, short_side=side, chunk_size=self.chunk_size):
                top, left = ((extent - side) // 2 for extent in frames_THWC.shape[1:3])
                yield Chunk(numbers_T, frames_THWC[:, top : top + side, left : left + side])


def frame_range(clip: ClipInfo, file_frames: int, file_fps: float | None) -> tuple[int, int]:
    """The clip's frames [start, end) in a file of ``file_frames`` at ``file_fps``.

    Annotated numbers count at the annotation's rate (25 a second) and are scaled where the file's rate is another.
    WLASL's own preparation cuts the sign out of a long source and keeps the annotation: a range that does not fit a
    file which is as long as the range means the whole file.

    Raises:
        DataError: the file ends before the clip begins.
    """
    rate = file_fps / clip.fps if file_fps else 1.0
    if abs(rate - 1.0) < 0.01:  # 29.97 against 30, or a rounded header
        rate = 1.0
    start = round(clip.frame_start * rate)
    end = file_frames if clip.frame_end is None else round(clip.frame_end * rate)
    if end <= file_frames and start < end:
        return start, end
    if clip.frame_end is not None and abs(end - start - file_frames) <= max(2, file_frames // 10):
        return 0, file_frames
    if start >= file_frames:
        raise DataError(
            f"{clip.path.name} has {file_frames} frames, but its sign begins at frame {start}; "
            "fetch the file again, or delete it to leave it out"
        )
    return start, max(start + 1, min(end, file_frames))

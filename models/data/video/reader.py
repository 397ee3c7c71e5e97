"""Read chosen frames of a video file, through PyAV. No torch.

Sound, and frames after the last chosen one, are not read.

T frame, H height, W width, C channel (RGB). Frames are numbered from 0 in the order in which they are shown.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from slr_bench.errors import DataError

_CURE = "fetch it again, or delete it to leave it out"


class Chunk(NamedTuple):
    """Some wanted frames."""

    numbers_T: NDArray[np.int64]
    """Frame numbers, ascending."""
    frames_THWC: NDArray[np.uint8]


class FrameChoice(NamedTuple):
    """Which frames of a clip stand for it."""

    numbers_T: NDArray[np.int64]
    padded: int
    """Number of repeats of the last frame, for a clip that is too short."""


def uniform_indices(start: int, end: int, count: int) -> FrameChoice:
    """The middle frames of ``count`` equal segments of [start, end); a shorter clip is padded with its last frame."""
    choices_TV, padded = segment_candidates(start, end, count, 1)
    return FrameChoice(choices_TV[:, 0], padded)


def segment_candidates(start: int, end: int, count: int, variants: int) -> tuple[NDArray[np.int64], int]:
    """Frames spread over each of ``count`` equal segments of [start, end): V ``variants`` per segment, shape (T, V).

    Picking one of each row at random is the time jitter of temporal segment networks (Wang et al., ECCV 2016), from a
    set small enough to keep. Second value: rows that repeat the last frame because the clip is too short.
    """
    length = end - start
    assert length > 0
    assert count > 0
    if length < count:
        row = np.minimum(np.arange(count), length - 1) + start
        return np.repeat(row[:, None], variants, axis=1), count - length
    # Middle of sub-segment v of segment t: (t + (2v + 1) / 2V) / count of the length, in whole numbers.
    parts_TV = 2 * np.arange(count * variants).reshape(count, variants) + 1
    return start + parts_TV * length // (2 * count * variants), 0


@contextmanager
def open_video(path: Path, *, threads: int = 1) -> Iterator[Video]:
    """Open ``path`` for reading with ``threads`` decoder threads (the frames do not depend on them).

    Raises:
        DataError: the file is missing, empty, cut off or no video, at opening or at any read inside the block.
    """
    try:
        with closing(Video(path, threads)) as video:
            video._read_timeline()
            yield video
    except av.FFmpegError as error:
        raise DataError(f"cannot read video {path.name}: {error.strerror}; {_CURE}") from error


def count_frames(path: Path) -> int:
    """Frames of a video file, without decoding it. Raises DataError as ``open_video`` does."""
    with open_video(path) as video:
        return video.frames


def read_frames(
    path: Path, numbers: Sequence[int], *, short_side: int | None = None, chunk_size: int = 32, threads: int = 1
) -> NDArray[np.uint8]:
    """The frames ``numbers`` (any order, repeats allowed) as uint8 THWC, their shorter side scaled to ``short_side``.

    Raises:
        DataError: as ``open_video``, or a wanted frame cannot be decoded.
    """
    wanted, rows = np.unique(np.asarray(numbers, dtype=np.int64), return_inverse=True)
    with open_video(path, threads=threads) as video:
        parts = [part.frames_THWC for part in video.chunks(wanted, short_side=short_side, chunk_size=chunk_size)]
    return np.concatenate(parts)[rows]


class Video:
    """An open file; made by ``open_video``.

    Its packets are read once without decoding, in about 1 ms per clip. The time stamp of each frame is then known, and
    frames are found by their stamp. This is exact with B-frames, with dropped frames, and after a seek.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self._path, self._threads = path, threads
        self._open()
        # One converter for the file: making one costs more than several conversions.
        self._converter = VideoReformatter()
        self.fps = float(self._stream.average_rate) if self._stream.average_rate else None
        """Frames per second; None if the file does not declare it."""
        self.size = (self._stream.width, self._stream.height)
        """Width and height of the frames, pixels."""

    def close(self) -> None:
        """Close the file; no frame can be read afterwards."""
        self._container.close()

    def _open(self) -> None:
        self._container = av.open(self._path)
        try:
            if not self._container.streams.video:
                raise DataError(f"{self._path.name} has no video stream; {_CURE}")
            self._stream = self._container.streams.video[0]
            if self._stream.codec_context is None:  # a cut header can hide the codec
                raise DataError(f"{self._path.name} does not say how its video is coded; {_CURE}")
        except DataError:
            self._container.close()
            raise
        self._stream.codec_context.thread_count = self._threads
        self._stream.thread_type = "AUTO"

    def _seek(self, stamp: int) -> None:
        try:
            self._container.seek(stamp, stream=self._stream)
        except av.PermissionError:  # .swf knows no way back but from its beginning
            self._container.close()
            self._open()

    def _read_timeline(self) -> None:
        packets = [p for p in self._container.demux(self._stream) if p.size and not (p.is_corrupt or p.is_discard)]
        if any(packet.pts is None for packet in packets):
            raise DataError(f"{self._path.name} has frames without time stamps; re-encode it with ffmpeg")
        stamps = sorted({packet.pts for packet in packets})
        # The sample table lists what the file should hold; a file that was cut off holds less. Streamed formats have
        # no table (frames == 0): there the packets are all that is known.
        announced = sum(not entry.is_discard for entry in self._stream.index_entries) if self._stream.frames else 0
        if len(stamps) < announced and packets:
            # Packets that are lost would be shown after the last one's decode time: up to there the numbers hold.
            stamps = [stamp for stamp in stamps if stamp <= packets[-1].dts]
        self.frames = max(announced, len(stamps))
        """Frames of the file; in a file that was cut off, not all can be read."""
        if not self.frames:
            raise DataError(f"{self._path.name} holds no frames; {_CURE}")
        self._number_of = {stamp: number for number, stamp in enumerate(stamps)}
        key_stamps = [packet.pts for packet in packets if packet.is_keyframe and packet.pts in self._number_of]
        self._key_numbers = sorted(self._number_of[stamp] for stamp in key_stamps)
        self._stamps = stamps

    def chunks(self, numbers_T: NDArray[np.int64], *, short_side: int | None, chunk_size: int) -> Iterator[Chunk]:
        """The frames ``numbers_T`` (strictly ascending), at most ``chunk_size`` at a time, RGB.

        libswscale converts and scales (bilinear, with anti-aliasing) in one call: about as fast as converting and then
        scaling with torchvision, and no RGB frame of the full resolution ever exists.

        Raises:
            DataError: a wanted frame cannot be decoded.
        """
        width, height = self._stream.width, self._stream.height
        if short_side is not None:
            scale = short_side / min(width, height)
            width, height = round(width * scale), round(height * scale)
        frames = self._decode(numbers_T)
        for first in range(0, len(numbers_T), chunk_size):
            part_T = numbers_T[first : first + chunk_size]
            frames_THWC = np.empty((len(part_T), height, width, 3), dtype=np.uint8)
            for row in frames_THWC:
                # One thread: slices would have to be waited for, and loader processes already fill the cores.
                row[:] = self._converter.reformat(
                    next(frames), width, height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1
                ).to_ndarray()
            yield Chunk(part_T, frames_THWC)

    def verify(self, start: int, end: int, *, decode: bool) -> None:
        """Look whether the frames [start, end) are in the file; with ``decode``, whether each can be decoded.

        Raises:
            DataError: one of them cannot be decoded.
        """
        if end > len(self._stamps):
            raise self._unavailable(len(self._stamps))
        if decode:
            for _ in self._decode(np.arange(start, end)):
                pass

    def _decode(self, numbers: NDArray[np.int64]) -> Iterator[av.VideoFrame]:
        next_number: int | None = None
        decoded: Iterator[av.VideoFrame] = iter(())
        for wanted in numbers.tolist():
            if wanted >= len(self._stamps):
                raise self._unavailable(wanted)
            key = self._key_before(wanted)
            # Reading on is cheaper than a seek to a key frame that the decoder's threads are already working on.
            if next_number is None or key >= next_number + self._threads:
                self._seek(self._stamps[key])
                decoded = self._container.decode(self._stream)
            for frame in decoded:
                # After a seek into an open group the decoder may first give frames of the group before.
                number = self._number_of.get(frame.pts, -1)
                if number >= wanted:
                    break
            else:
                raise self._unavailable(wanted)
            if number > wanted:
                raise self._unavailable(wanted)
            next_number = number + 1
            yield frame

    def _key_before(self, number: int) -> int:
        place = bisect_right(self._key_numbers, number)
        return self._key_numbers[place - 1] if place else 0

    def _unavailable(self, number: int) -> DataError:
        there = len(self._stamps)
        why = "its data are damaged" if number < there else f"only {there} of its {self.frames} frames are in the file"
        return DataError(f"frame {number} of {self._path.name} cannot be decoded ({why}); {_CURE}")

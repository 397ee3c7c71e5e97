"""Read chosen frames of a video file, through PyAV. No torch.

Sound, and frames after the last chosen one, are not read.

T frame, H height, W width, C channel (RGB). Frames are numbered from 0 in the order in which they are shown.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from models.data.manifest import VIDEO_SUFFIXES
from models.data.video.stream_properties import (
    UPRIGHT,
    Orientation,
    is_image,
    moving_streams,
    orientation_of,
    shown_stream,
)
from models.data.video.timeline import (
    Timeline,
    stamps_order_frames,
    stored_packets,
    timeline_by_count,
    timeline_by_stamps,
)
from slr_bench.errors import DataError

_CURE = "fetch it again, or delete it to leave it out"
_WITHOUT_INDEX = ("mpeg", "mpegts", "mpegvideo", "h264", "hevc", "m4v", "obu", "ivf", "asf")
"""Containers in which FFmpeg guesses positions or, after a seek, time stamps: they are read from the beginning."""


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
        raise DataError(f"cannot read video {path.name}: {error.strerror}; {_cure(path)}") from error


def _cure(path: Path) -> str:
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        return f"name a video file ({', '.join(VIDEO_SUFFIXES)})"
    return _CURE if path.exists() else "check the path"


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
    frames are found by their stamp. This is exact with B-frames, with dropped frames, and after a seek. If the stamps
    do not order the frames (AVI with B-frames, two frames with one stamp), frames are counted as they leave the
    decoder. That happens once per process, and reading then starts at the beginning of the file.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self._path, self._threads = path, threads
        self._open()
        # One converter for the file: making one costs more than several conversions.
        self._converter = VideoReformatter()
        self._noted_orientation: Orientation | None = None
        self.concealed: set[int] = set()
        """Numbers of damaged frames: their packets are marked so, or the decoder invented parts of their pictures."""

    @property
    def frames(self) -> int:
        """Frames of the file; in a file that was cut off, not all can be read."""
        return self._timeline.frames

    @property
    def fps(self) -> float | None:
        """Frames per second; None if unknown."""
        return self._timeline.fps

    @property
    def timeline(self) -> Timeline:
        """The numbers and times of the frames, and what is wrong with them."""
        return self._timeline

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the displayed frames, pixels."""
        return self._orientation.size(self._stream.width, self._stream.height)

    @property
    def is_turned(self) -> bool:
        """True if the coded pictures are rotated or mirrored for display."""
        return self._orientation != UPRIGHT

    @property
    def _orientation(self) -> Orientation:
        """The orientation of the first frame, as in ffmpeg; H.264 may repeat it with key frames only."""
        if self._noted_orientation is None:
            self._seek(0)
            next(self._decoded(), None)
        return self._noted_orientation or UPRIGHT

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """Decode from the key frame where the file is, and note the orientation."""
        for frame in self._container.decode(self._stream):
            self._noted_orientation = self._noted_orientation or orientation_of(frame)
            yield frame

    def close(self) -> None:
        """Close the file; no frame can be read afterwards."""
        self._container.close()

    def _open(self) -> None:
        # The options are those of the decoder that looks into the file; the pictures it makes are thrown away.
        self._container = av.open(self._path, options={"skip_loop_filter": "all"}, metadata_errors="ignore")
        try:
            if not self._container.streams.video:
                raise DataError(f"{self._path.name} has no video stream; {_CURE}")
            if is_image(self._container.format.name):
                raise DataError(f"{self._path.name} is an image; use a video")
            self._stream = shown_stream(self._container.streams.video)
            if self._stream.codec_context is None:  # a cut header can hide the codec
                raise DataError(f"{self._path.name} does not say how its video is coded; {_CURE}")
        except DataError:
            self._container.close()
            raise
        self.format = self._container.format.name
        """FFmpeg's name of the container, for example ``avi``."""
        self.streams = len(moving_streams(self._container.streams.video))
        """Number of videos in the file, cover pictures excluded."""
        self._stream.codec_context.thread_count = self._threads
        self._stream.thread_type = "AUTO"

    def _restart(self) -> None:
        self._container.close()
        self._open()

    def _seek(self, number: int) -> None:
        """Go to the key frame ``number``."""
        if not self._has_index:
            self._restart()
            return
        try:
            stamp = self._timeline.key_stamps.get(number, self._timeline.stamps[0])
            self._container.seek(stamp, stream=self._stream)
        except av.PermissionError:  # .swf knows no way back but from its beginning
            self._restart()

    def _read_timeline(self) -> None:
        container, stream = self._container, self._stream
        packets = stored_packets(container, stream)
        if stamps_order_frames(packets, self.format, stream):
            self._timeline = timeline_by_stamps(packets, container, stream)
        else:
            status = self._path.stat()
            counted = _count_decoded(self._path, status.st_size, status.st_mtime_ns)
            self._timeline = timeline_by_count(*counted, packets, container, stream)
        if not self._timeline.frames:
            raise DataError(f"{self._path.name} holds no frames; {_CURE}")
        self._has_index = bool(self._timeline.stamps) and self.format not in _WITHOUT_INDEX
        self._keys = list(self._timeline.key_stamps)
        self._number_of = {stamp: number for number, stamp in enumerate(self._timeline.stamps)}
        self.concealed |= self._timeline.damaged

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
                frame = next(frames)
                # One thread: slices would have to be waited for, and loader processes already fill the cores.
                converted = self._converter.reformat(
                    frame, width, height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1
                )
                plane = converted.planes[0]
                lines = np.frombuffer(plane, dtype=np.uint8).reshape(height, plane.line_size)
                row.reshape(height, -1)[:] = lines[:, : 3 * width]
            yield Chunk(part_T, self._orientation.apply(frames_THWC))

    def verify(self, start: int, end: int, *, decode: bool) -> None:
        """Look whether the frames [start, end) are in the file; with ``decode``, whether each can be decoded.

        Raises:
            DataError: one of them cannot be decoded.
        """
        if end > self._timeline.readable:
            raise self._unavailable(self._timeline.readable)
        if decode:
            for _ in self._decode(np.arange(start, end)):
                pass

    def number_at(self, time_s: float) -> int:
        """Return the number of the frame that is shown ``time_s`` seconds after the first one."""
        if self._timeline.is_steady or not self._timeline.stamps:
            return round(time_s * (self.fps or 0))
        stamps = self._timeline.stamps
        after = bisect_right(stamps, stamps[0] + time_s / float(self._stream.time_base))
        return max(0, after - 1) if time_s > 0 else 0

    def _in_decode_order(self, numbers: NDArray[np.int64]) -> Iterator[av.VideoFrame]:
        wanted = iter(numbers.tolist())
        number = next(wanted, None)
        self._restart()
        for place, frame in enumerate(self._decoded()):
            if place == number:
                yield frame
                number = next(wanted, None)
            if number is None:
                return
        if number is not None:
            raise self._unavailable(number)

    def _decode(self, numbers: NDArray[np.int64]) -> Iterator[av.VideoFrame]:
        stamps = self._timeline.stamps
        if not stamps:
            yield from self._in_decode_order(numbers)
            return
        next_number: int | None = None
        numbered: Iterator[tuple[int, av.VideoFrame]] = iter(())
        for wanted in numbers.tolist():
            if wanted >= len(stamps):
                raise self._unavailable(wanted)
            key = self._key_before(wanted)
            # Reading on is cheaper than a seek to a key frame that the decoder's threads are already working on.
            if next_number is None or key >= next_number + self._threads:
                numbered = self._numbered_from(key)
            found = next(((number, frame) for number, frame in numbered if number >= wanted), None)
            if (found is None or found[0] > wanted) and self._has_index and key:
                self._has_index = False  # no picture where a key frame should be: begin at the first frame instead
                numbered = self._numbered_from(0)
                found = next(((number, frame) for number, frame in numbered if number >= wanted), None)
            if found is None or found[0] > wanted:
                raise self._unavailable(wanted)
            next_number = wanted + 1
            yield found[1]

    def _numbered_from(self, key: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield frames from the key frame ``key`` on; nothing if the frame there turns out to be none.

        After a seek into an open group the decoder may first give frames of the group before.
        """
        self._seek(key)
        for frame in self._decoded():
            number = self._number_of.get(frame.pts, -1)
            if key and (number > key or (number == key and not frame.key_frame)):
                return  # a file may flag frames as key frames that need others
            if number >= key:
                key = 0
            if frame.is_corrupt and number >= 0:
                self.concealed.add(number)
            yield number, frame

    def _key_before(self, number: int) -> int:
        place = bisect_right(self._keys, number) if self._has_index else 0
        return self._keys[place - 1] if place else 0

    def _unavailable(self, number: int) -> DataError:
        there = self._timeline.readable
        why = "its data are damaged" if number < there else f"only {there} of its {self.frames} frames are in the file"
        return DataError(f"frame {number} of {self._path.name} cannot be decoded ({why}); {_CURE}")


@cache
def _count_decoded(path: Path, file_bytes: int, modified_ns: int) -> tuple[int, frozenset[int]]:
    """Return the number of frames that the decoder yields, and which of them are damaged.

    The size and the time of the last change are there for the cache: a file that was replaced is counted again.
    """
    count, damaged = 0, set()
    with closing(Video(path, 1)) as video:
        for frame in video._container.decode(video._stream):
            if frame.is_corrupt:
                damaged.add(count)
            count += 1
    return count, frozenset(damaged)

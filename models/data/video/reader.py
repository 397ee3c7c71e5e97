"""Read chosen frames of a video file, through PyAV. No torch.

Sound, and frames after the last chosen one, are not read.

T frame, H height, W width, C channel (RGB). Frames are numbered from 0 in the order in which they are shown.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from models.data.video.stream_properties import UPRIGHT, Orientation, frame_rate, orientation_of, stamps_order_frames
from slr_bench.errors import DataError

_CURE = "fetch it again, or delete it to leave it out"
_WITHOUT_INDEX = ("mpeg", "mpegts", "mpegvideo", "h264", "hevc", "m4v", "obu", "ivf")
"""Containers in which FFmpeg finds key frames by guessing positions: they are read from the beginning."""


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
    frames are found by their stamp. This is exact with B-frames, with dropped frames, and after a seek. If the stamps
    do not order the frames (AVI with B-frames, MPEG program streams, two frames with one stamp), frames are counted as
    they leave the decoder, and reading starts at the beginning of the file.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self._path, self._threads = path, threads
        self._open()
        # One converter for the file: making one costs more than several conversions.
        self._converter = VideoReformatter()
        self.concealed: set[int] = set()
        """Numbers of the frames decoded so far that FFmpeg marks as damaged: it invented parts of their pictures."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the displayed frames, pixels."""
        return self._orientation.size(self._stream.width, self._stream.height)

    @property
    def is_turned(self) -> bool:
        """Whether the coded pictures are rotated or mirrored for display."""
        return self._orientation != UPRIGHT

    @property
    def streams(self) -> int:
        """Number of videos in the file, cover pictures excluded."""
        return len(_moving(self._container.streams.video))

    @cached_property
    def _orientation(self) -> Orientation:
        """The first frame's; it is stored with every frame and does not change within a clip."""
        self._restart()
        first = next(self._container.decode(self._stream), None)
        return UPRIGHT if first is None else orientation_of(first)

    def close(self) -> None:
        """Close the file; no frame can be read afterwards."""
        self._container.close()

    def _open(self) -> None:
        self._container = av.open(self._path)
        try:
            if not self._container.streams.video:
                raise DataError(f"{self._path.name} has no video stream; {_CURE}")
            self._stream = _main_stream(self._container.streams.video)
            if self._stream.codec_context is None:  # a cut header can hide the codec
                raise DataError(f"{self._path.name} does not say how its video is coded; {_CURE}")
        except DataError:
            self._container.close()
            raise
        self._stream.codec_context.thread_count = self._threads
        self._stream.thread_type = "AUTO"

    def _restart(self) -> None:
        self._container.close()
        self._open()

    def _seek(self, stamp: int) -> None:
        if not self._has_index:
            self._restart()
            return
        try:
            self._container.seek(stamp, stream=self._stream)
        except av.PermissionError:  # .swf knows no way back but from its beginning
            self._restart()

    def _read_timeline(self) -> None:
        packets = [p for p in self._container.demux(self._stream) if p.size and not (p.is_corrupt or p.is_discard)]
        self._has_index = self._container.format.name not in _WITHOUT_INDEX
        self._has_ordered_stamps = stamps_order_frames(packets, self._container.format.name, self._stream)
        if not self._has_ordered_stamps:
            self._count_decoded()
            return
        stamps = sorted({packet.pts for packet in packets})
        complete = [stamp for stamp in stamps if packets[-1].dts is None or stamp <= packets[-1].dts] if packets else []
        self.fps, self._is_steady = frame_rate(complete, self._stream)
        # The sample table lists what the file should hold; a file that was cut off holds less. Streamed formats have
        # no table (frames == 0): there the packets are all that is known.
        announced = sum(not entry.is_discard for entry in self._stream.index_entries) if self._stream.frames else 0
        announced = max(announced, self._announced_by_duration(packets))
        if len(stamps) < announced and packets:
            # Packets that are lost would be shown after the last one's decode time: up to there the numbers hold.
            stamps = [stamp for stamp in stamps if stamp <= packets[-1].dts]
        self.frames = max(announced, len(stamps))
        """Frames of the file; in a file that was cut off, not all can be read."""
        if not self.frames:
            raise DataError(f"{self._path.name} holds no frames; {_CURE}")
        self._number_of = {stamp: number for number, stamp in enumerate(stamps)}
        key_stamps = [packet.pts for packet in packets if packet.is_keyframe and packet.pts in self._number_of]
        self._key_numbers = sorted(self._number_of[stamp] for stamp in key_stamps) if self._has_index else [0]
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
            orientation = UPRIGHT
            for row in frames_THWC:
                frame = next(frames)
                orientation = orientation_of(frame)  # the same for all frames of a clip
                # One thread: slices would have to be waited for, and loader processes already fill the cores.
                row[:] = self._converter.reformat(
                    frame, width, height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1
                ).to_ndarray()
            yield Chunk(part_T, orientation.apply(frames_THWC))

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

    def number_at(self, time_s: float) -> int:
        """Return the number of the frame that is shown ``time_s`` seconds after the first one."""
        if self._is_steady or not self._has_ordered_stamps:
            return round(time_s * (self.fps or 0))
        stamp = self._stamps[0] + time_s / float(self._stream.time_base)
        after = bisect_right(self._stamps, stamp)
        return max(0, after - 1) if time_s > 0 else 0

    def _count_decoded(self) -> None:
        """Number the frames as the decoder yields them, for a file whose stamps do not order its frames."""
        self._restart()
        count = sum(1 for _ in self._container.decode(self._stream))
        if not count:
            raise DataError(f"{self._path.name} holds no frames; {_CURE}")
        declared = self._stream.frames  # placeholders of packed B-frames count there, too
        self.frames = declared if declared > 1.05 * count + 2 else count
        self.fps = float(self._stream.average_rate) if self._stream.average_rate else None
        self._is_steady = True
        self._stamps, self._key_numbers = list(range(count)), [0]

    def _announced_by_duration(self, packets: list[av.Packet]) -> int:
        """Return the frames of the duration in the header, for a streamed file that ends well before it; else 0."""
        duration_s = (self._container.duration or 0) / av.time_base
        if self._stream.frames or not duration_s or not self.fps or self._stream.duration is not None:
            return 0
        last = max(packets, key=lambda packet: packet.pts, default=None)
        if last is None:
            return 0
        end_s = float((last.pts + (last.duration or 0)) * last.time_base)
        if duration_s - end_s <= max(2 / self.fps, 0.02 * duration_s):
            return 0
        self._container.seek(0)
        ends_s = [
            float((p.pts + (p.duration or 0)) * p.time_base) for p in self._container.demux() if p.pts is not None
        ]
        return round(duration_s * self.fps) if duration_s - max(ends_s) > max(2 / self.fps, 0.02 * duration_s) else 0

    def _in_decode_order(self, numbers: NDArray[np.int64]) -> Iterator[av.VideoFrame]:
        wanted = iter(numbers.tolist())
        number = next(wanted, None)
        self._restart()
        for place, frame in enumerate(self._container.decode(self._stream)):
            if frame.is_corrupt:
                self.concealed.add(place)
            if place == number:
                yield frame
                number = next(wanted, None)
            if number is None:
                return
        if number is not None:
            raise self._unavailable(number)

    def _decode(self, numbers: NDArray[np.int64]) -> Iterator[av.VideoFrame]:
        if not self._has_ordered_stamps:
            yield from self._in_decode_order(numbers)
            return
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
                if frame.is_corrupt and number >= 0:
                    self.concealed.add(number)
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


def _main_stream(streams: Sequence[av.VideoStream]) -> av.VideoStream:
    """Return the stream that players show: the default one, never a cover picture if there is another."""
    moving = _moving(streams) or list(streams)
    return next((stream for stream in moving if stream.disposition & Disposition.default), moving[0])


def _moving(streams: Sequence[av.VideoStream]) -> list[av.VideoStream]:
    return [stream for stream in streams if not stream.disposition & Disposition.attached_pic]

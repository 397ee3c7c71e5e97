"""Read frames as they arrive from a file, a pipe or a camera, through PyAV. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from models.data.video.stream_properties import is_image, orientation_of
from slr_bench.errors import DataError


class Source(NamedTuple):
    """The source of a stream: its FFmpeg address, and its name and cure for messages."""

    url: str
    name: str
    cure: str
    format: str | None = None
    options: dict[str, str] = {}

    @classmethod
    def file(cls, path: Path) -> Source:
        """A video file."""
        return cls(f"file:{path}", str(path), "check the path and that it is a video")

    @classmethod
    def descriptor(cls, number: int = 0) -> Source:
        """An open file or pipe, by default standard input; read without waiting for more than there is."""
        cure = "a pipe takes what can be read front to back, as ffmpeg -i FILE -c copy -f matroska - writes it"
        return cls("fd:", "standard input", cure, options={"fd": str(number)})

    @classmethod
    def camera(cls, number: int) -> Source:
        """A camera under Linux (Video4Linux2)."""
        device = f"/dev/video{number}"
        cameras = ", ".join(path.name.removeprefix("video") for path in sorted(Path("/dev").glob("video*")))
        return cls(device, f"camera {number} ({device})", f"cameras here: {cameras or 'none'}", format="v4l2")


class LiveFrame(NamedTuple):
    """One frame of the stream that is used."""

    number: int
    """Number of the frame from 0; skipped frames count."""
    time_s: float | None
    """Time stamp in the stream; None if the stream has none."""
    frame_HWC: NDArray[np.uint8]
    """The middle square, RGB."""


class LiveVideo:
    """An open stream; made by ``open_live``."""

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        self._container, self._stream = container, stream
        rate = stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate else None
        """Frames per second; None if the stream does not declare it."""
        self.damaged_packets = 0
        """Damaged packets skipped so far; the stream continues after them."""
        self.damaged_frames = 0
        """Damaged frames so far whose pictures the decoder guessed."""

    def frames(self, stride: int, side: int) -> Iterator[LiveFrame]:
        """Every ``stride``-th frame, cut to the middle square and scaled to ``side`` x ``side``, as the loader does."""
        converter, orientation = VideoReformatter(), None
        for number, frame in enumerate(self._decoded()):
            if number % stride:
                continue
            scale = side / min(frame.width, frame.height)
            width, height = round(frame.width * scale), round(frame.height * scale)
            scaled = converter.reformat(
                frame, width, height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1
            ).to_ndarray()
            top, left = (height - side) // 2, (width - side) // 2
            orientation = orientation or orientation_of(frame)
            square = orientation.apply(scaled[None, top : top + side, left : left + side])[0]
            yield LiveFrame(number, frame.time, square)

    def _decoded(self) -> Iterator[av.VideoFrame]:
        decoded, damage = False, None
        for packet in self._container.demux(self._stream):
            try:
                for frame in packet.decode():
                    decoded = True
                    self.damaged_frames += frame.is_corrupt
                    yield frame
            except av.error.InvalidDataError as error:
                self.damaged_packets += 1
                damage = error
        if damage and not decoded:
            raise damage


@contextmanager
def open_live(source: Source) -> Iterator[LiveVideo]:
    """Open ``source`` for reading from where it is.

    Raises:
        DataError: the source cannot be opened, or a read inside the block fails.
    """
    try:
        with av.open(source.url, format=source.format, options=source.options) as container:
            if not container.streams.video:
                raise DataError(f"{source.name} has no video stream; {source.cure}")
            if source.url.startswith("file:") and is_image(container.format.name):
                raise DataError(f"{source.name} is an image; name a video")
            yield LiveVideo(container, container.streams.video[0])
    except av.FFmpegError as error:
        raise DataError(f"cannot read {source.name}: {error.strerror}; {source.cure}") from error

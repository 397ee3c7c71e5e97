"""The display orientation of a video, and the choice among several videos of a file. No torch.

T frame, H height, W width, C channel (RGB)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.stream import Disposition
from numpy.typing import NDArray


class Orientation(NamedTuple):
    """The turn of a coded picture for display: first a transposition, then mirrors."""

    transposed: bool = False
    mirrored_across: bool = False
    """Left and right are exchanged."""
    mirrored_down: bool = False
    """Top and bottom are exchanged."""

    def apply(self, frames_THWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn frames for display; a view where nothing has to move."""
        if self.transposed:
            frames_THWC = frames_THWC.swapaxes(1, 2)
        if self.mirrored_across:
            frames_THWC = frames_THWC[:, :, ::-1]
        if self.mirrored_down:
            frames_THWC = frames_THWC[:, ::-1]
        return np.ascontiguousarray(frames_THWC)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the displayed width and height of a coded picture."""
        return (height, width) if self.transposed else (width, height)


UPRIGHT = Orientation()


def is_image(container: str) -> bool:
    """Return whether FFmpeg's name of a file's container is that of a still image, which it reads as one frame."""
    return container == "image2" or container.endswith("_pipe")


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """Return the orientation of a decoded frame, rounded to quarter turns as ffmpeg's autorotation does.

    FFmpeg's display matrix maps a coded pixel (x, y) to (a x + c y, b x + d y); it is stored as nine 32-bit integers,
    row by row (``libavutil/display.h``).
    """
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), dtype=np.int32).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(transposed=True, mirrored_across=c < 0, mirrored_down=b < 0)
    return Orientation(mirrored_across=a < 0, mirrored_down=d < 0)


def shown_stream(streams: Sequence[av.VideoStream]) -> av.VideoStream:
    """Return the stream that players show: the default one, never a cover picture if there is another."""
    moving = moving_streams(streams) or list(streams)
    return next((stream for stream in moving if stream.disposition & Disposition.default), moving[0])


def moving_streams(streams: Sequence[av.VideoStream]) -> list[av.VideoStream]:
    """Return the streams that are videos, cover pictures excluded."""
    return [stream for stream in streams if not stream.disposition & Disposition.attached_pic]

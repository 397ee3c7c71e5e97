"""Properties of a stored video: its display orientation, the order of its time stamps, its frame rate. No torch.

T frame, H height, W width, C channel (RGB)
"""

from __future__ import annotations

from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type
from numpy.typing import NDArray

_WITH_PRESENTATION_STAMPS = ("mov", "mp4", "matroska", "webm", "flv", "mpegts", "asf", "ogg", "nut")
"""Containers that store when each frame is shown; the others store the order of decoding only."""
_STEADY = 0.1
"""Intervals between frames may differ by this fraction of the median at a constant frame rate, or by one clock tick."""


class Orientation(NamedTuple):
    """How a coded picture is turned for display: first transposed, then mirrored."""

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


def stamps_order_frames(packets: list[av.Packet], container: str, stream: av.VideoStream) -> bool:
    """Return whether the time stamps of the packets give the order in which the frames are shown."""
    stamps = [packet.pts for packet in packets]
    if any(stamp is None for stamp in stamps) or len(set(stamps)) < len(stamps):
        return False
    if any(name in _WITH_PRESENTATION_STAMPS for name in container.split(",")):
        return True
    return not stream.codec_context.has_b_frames or stamps != sorted(stamps)


def frame_rate(stamps: list[int], stream: av.VideoStream) -> tuple[float | None, bool]:
    """Return the frames per second, and whether the rate is constant.

    The declared rate counts unless the stamps contradict it, as in files of browsers, which declare 1000.
    """
    declared = float(stream.average_rate) if stream.average_rate else None
    if len(stamps) < 3:
        return declared, True
    intervals = np.diff(stamps)
    mean, middle = float(intervals.mean()), float(np.median(intervals))
    measured = 1 / (mean * float(stream.time_base))
    is_steady = bool(np.abs(intervals - middle).max() <= max(_STEADY * middle, 1))
    is_true = declared is not None and abs(declared / measured - 1) < _STEADY
    return (declared if is_true and is_steady else measured), is_steady

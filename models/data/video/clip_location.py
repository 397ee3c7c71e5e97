"""Locates a clip in its video file: which frames belong to it, and which square of each frame is read. No torch.

WLASL annotates the original videos at 25 frames per second. People often have other copies: cut, resized, or at
another frame rate. Signers stand in the middle, so the middle square is read unless a bounding box says otherwise.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from models.data.manifest import ClipInfo
from slr_bench.errors import DataError

_MARGIN = 0.05
"""Margin on each side of a bbox, as a fraction of its longer side."""
_SMALLEST = 0.5
"""Smallest side of a square, as a fraction of the shorter side of the frame; it limits what is decoded to scale."""
_WHOLE = 0.95
"""A bbox that covers this fraction of both sides selects nothing."""
_RESIZED_SIDE = 256
"""Height and width of the copies that the preparation of WLASL makes."""


class Square(NamedTuple):
    """A square within the frame."""

    side: float
    """Side of the square, as a fraction of the shorter side of the frame."""
    right: float
    """Horizontal position in the remaining width, 0 (left) to 1 (right)."""
    down: float
    """Vertical position in the remaining height, 0 (top) to 1 (bottom)."""


MIDDLE = Square(1.0, 0.5, 0.5)
"""The middle square, where signers stand."""


def bbox_applies(bbox: tuple[float, float, float, float], width: int, height: int) -> bool:
    """Return whether ``bbox`` (left, top, right, bottom in pixels of the original) can belong to a file of this size.

    It cannot if it is empty, reaches beyond the file or holds NaN. In a file of 256 x 256 it counts as stale unless
    it is the full frame: WLASL's preparation makes such copies, originals are not square.
    """
    left, top, right, bottom = bbox
    if not (0 <= left < right <= width + 1 and 0 <= top < bottom <= height + 1):
        return False
    is_full_frame = left <= 1 and top <= 1 and right >= width - 1 and bottom >= height - 1
    return is_full_frame or (width, height) != (_RESIZED_SIDE, _RESIZED_SIDE)


def bbox_square(bbox: tuple[float, float, float, float], width: int, height: int) -> Square | None:
    """Return the square around ``bbox`` (left, top, right, bottom in pixels), moved into the frame.

    Return None if the bbox does not apply to the file or selects nothing.
    """
    if not bbox_applies(bbox, width, height):
        return None
    left, top, right, bottom = bbox
    if right - left >= _WHOLE * width and bottom - top >= _WHOLE * height:
        return None
    short = min(width, height)
    side = min(short, max(_SMALLEST * short, (1 + 2 * _MARGIN) * max(right - left, bottom - top)))
    return Square(side / short, _position(left, right, side, width), _position(top, bottom, side, height))


def _position(low: float, high: float, side: float, extent: int) -> float:
    room = extent - side
    return min(1.0, max(0.0, ((low + high - side) / 2) / room)) if room > 0 else 0.5


class Timing(Protocol):
    """What the location of a clip needs to know of its video; see ``reader.Video``."""

    frames: int
    fps: float | None

    def number_at(self, time_s: float) -> int:
        """Return the number of the frame that is shown at a time."""


def rate_ratio(clip: ClipInfo, file_fps: float | None) -> float:
    """Return the frames of the file per annotated frame; 1 if the rate is unknown or differs by rounding only."""
    ratio = file_fps / clip.fps if file_fps and clip.fps else 1.0
    return 1.0 if abs(ratio - 1.0) < 0.01 else ratio  # 29.97 against 30, or a rounded header


def frame_range(clip: ClipInfo, video: Timing) -> tuple[int, int]:
    """Return the frames [start, end) of the clip in its file.

    Annotated numbers count at the rate of the annotation (25 frames per second) and are scaled if the file has another
    rate, by its time stamps if the rate varies. The preparation of WLASL cuts the sign out of a long source and keeps
    the annotation. A range that does not fit the file therefore means the whole file, if the file is as long as the
    range or as the copy of the authors.

    Raises:
        DataError: the file ends before the clip begins.
    """
    file_frames = video.frames
    start = _file_number(clip, video, clip.frame_start)
    end = file_frames if clip.frame_end is None else _file_number(clip, video, clip.frame_end)
    if end <= file_frames and start < end:
        return start, end
    lengths = [clip.cut_frames] if clip.frame_end is None else [clip.cut_frames, end - start]
    if any(abs(length - file_frames) <= max(2, file_frames // 10) for length in lengths):
        return 0, file_frames
    if start >= file_frames:
        raise DataError(
            f"{clip.path.name} has {file_frames} frames, but its sign begins at frame {start}; "
            "fetch the file again, or delete it to leave it out"
        )
    return start, max(start + 1, min(end, file_frames))


def _file_number(clip: ClipInfo, video: Timing, annotated: int) -> int:
    if clip.fps is None or rate_ratio(clip, video.fps) == 1.0:
        return annotated
    return video.number_at(annotated / clip.fps)

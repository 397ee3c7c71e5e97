"""Which square of a video's frames is read: the middle one, or the one that the manifest's bbox tells. No torch."""

from __future__ import annotations

from typing import NamedTuple

_MARGIN = 0.05
"""Added on each side of a bbox, of its longer side."""
_SMALLEST = 0.5
"""Least side of a square, of the frame's shorter one: no more than four times the pixels are decoded to scale."""
_WHOLE = 0.95
"""A bbox that covers so much of both sides says nothing."""
_RESIZED_SIDE = 256
"""Height and width of the copies that WLASL's preparation makes."""


class Square(NamedTuple):
    """A square within the frame."""

    side: float
    """Of the frame's shorter side."""
    right: float
    """Where in the room that is left of the width, 0 to 1."""
    down: float
    """Where in the room that is left of the height, 0 to 1."""


MIDDLE = Square(1.0, 0.5, 0.5)
"""Signers stand there."""


def bbox_applies(bbox: tuple[float, float, float, float], width: int, height: int) -> bool:
    """Whether ``bbox`` (left, top, right, bottom in pixels of the original) can be one of a file of this size.

    It cannot where it is empty, reaches beyond the file or holds NaN. In a file of 256 x 256 it counts as stale unless
    it is the full frame: WLASL's preparation makes such copies, originals are not square.
    """
    left, top, right, bottom = bbox
    if not (0 <= left < right <= width + 1 and 0 <= top < bottom <= height + 1):
        return False
    is_full_frame = left <= 1 and top <= 1 and right >= width - 1 and bottom >= height - 1
    return is_full_frame or (width, height) != (_RESIZED_SIDE, _RESIZED_SIDE)


def bbox_square(bbox: tuple[float, float, float, float], width: int, height: int) -> Square | None:
    """The square around ``bbox`` (left, top, right, bottom in pixels) in a ``width`` x ``height`` file, moved into the
    frame; None where the bbox does not apply to the file or tells nothing.
    """
    if not bbox_applies(bbox, width, height):
        return None
    left, top, right, bottom = bbox
    if right - left >= _WHOLE * width and bottom - top >= _WHOLE * height:
        return None
    short = min(width, height)
    side = min(short, max(_SMALLEST * short, (1 + 2 * _MARGIN) * max(right - left, bottom - top)))
    return Square(side / short, _place(left, right, side, width), _place(top, bottom, side, height))


def _place(low: float, high: float, side: float, extent: int) -> float:
    room = extent - side
    return min(1.0, max(0.0, ((low + high - side) / 2) / room)) if room > 0 else 0.5

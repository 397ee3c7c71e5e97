"""Which square of a video's frames is read: the middle one, or the one that the manifest's bbox tells. No torch."""

from __future__ import annotations

from typing import NamedTuple

_MARGIN = 0.05
"""Added on each side of a bbox, of its longer side."""
_SMALLEST = 0.5
"""Least side of a square, of the frame's shorter one: no more than four times the pixels are decoded to scale."""
_WHOLE = 0.95
"""A bbox that covers so much of both sides says nothing."""


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


def bbox_lies_within(bbox: tuple[float, float, float, float], width: int, height: int) -> bool:
    """Whether ``bbox`` (left, top, right, bottom in pixels) is not empty and within a file of this size; NaN is not."""
    left, top, right, bottom = bbox
    return 0 <= left < right <= width + 1 and 0 <= top < bottom <= height + 1


def bbox_square(bbox: tuple[float, float, float, float], width: int, height: int) -> Square | None:
    """The square around ``bbox`` (left, top, right, bottom in pixels) in a ``width`` x ``height`` file, moved into the
    frame; None where the bbox is stale or tells nothing.

    Stale is a bbox that reaches beyond the file: it was measured on the original video, and WLASL's prepared copies are
    256 x 256. One that happens to fit the smaller copy cannot be told from a true one.
    """
    if not bbox_lies_within(bbox, width, height):
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

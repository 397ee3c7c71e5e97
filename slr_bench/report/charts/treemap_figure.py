"""Rectangles whose areas are values: a squarified treemap (Bruls, Huizing and van Wijk, 2000)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle in the unit square; ``top`` counts from above."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """At most 1, whatever rounding made of it."""
        return min(1.0, self.left + self.width)

    @property
    def bottom(self) -> float:
        """At most 1, too."""
        return min(1.0, self.top + self.height)


def squarified(sizes: Sequence[float], aspect: float = 1.5) -> list[Box]:
    """A box a size, in the order given (largest first), together the unit square that is shown ``aspect`` times as
    wide as high. A row of boxes takes another size for as long as that makes its worst box squarer.

    Raises:
        ValueError: a size that is not above 0.
    """
    if any(size <= 0 for size in sizes):
        raise ValueError(f"a box needs a size above 0, got {min(sizes)}; leave it out")
    total, boxes = sum(sizes), list[Box]()
    left, top, width, height = 0.0, 0.0, aspect, 1.0
    areas = [size / total * aspect for size in sizes]
    while areas:
        is_wide = width >= height
        side = height if is_wide else width
        count = _row_length(areas, side)
        row, areas = areas[:count], areas[count:]
        thickness = sum(row) / side
        along = 0.0
        for area in row:
            length = area / thickness
            boxes.append(Box(left, top + along, thickness, length) if is_wide else
                         Box(left + along, top, length, thickness))  # fmt: skip
            along += length
        if is_wide:
            left, width = left + thickness, width - thickness
        else:
            top, height = top + thickness, height - thickness
    return [Box(box.left / aspect, box.top, box.width / aspect, box.height) for box in boxes]


def _row_length(areas: Sequence[float], side: float) -> int:
    """How many of the first areas stand in one row along ``side``."""
    best = _worst(areas[:1], side)
    for count in range(2, len(areas) + 1):
        worst = _worst(areas[:count], side)
        if worst > best:
            return count - 1
        best = worst
    return len(areas)


def _worst(row: Sequence[float], side: float) -> float:
    """The largest ratio of sides in a row."""
    thickness = sum(row) / side
    return max(max(thickness * thickness / area, area / (thickness * thickness)) for area in row)

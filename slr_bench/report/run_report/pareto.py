"""Cells by memory, time and accuracy at once, and those that no other cell beats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from slr_bench.compare.cells import CellSummary

ACCURACY: Final = "accuracy_top1"
_MEMORY: Final = ("peak_tensor_bytes", "peak_allocated_bytes")
"""The first of them that any cell has."""


@dataclass(frozen=True)
class Point:
    """A cell with what it needs and what it gives."""

    cell: CellSummary
    memory_bytes: float
    time_s: float
    """Of a step, or of a clip where effective batches differ."""
    accuracy: float | None
    """Of the training with the same arm and axes; None where there is none."""
    is_dominated: bool = False


@dataclass(frozen=True)
class Field:
    """The points of a workload, and what their figures are."""

    points: tuple[Point, ...]
    memory: str
    """The metric."""
    is_per_clip: bool

    @property
    def front(self) -> tuple[Point, ...]:
        """Those that nothing beats, quickest first."""
        return tuple(sorted((point for point in self.points if not point.is_dominated), key=lambda one: one.time_s))

    @property
    def edge(self) -> tuple[Point, ...]:
        """Those of the front that also need less memory than all quicker ones: a line that nothing lies below."""
        found: list[Point] = []
        for point in self.front:
            if not found or point.memory_bytes < found[-1].memory_bytes:
                found.append(point)
        return tuple(found)

    @property
    def time_text(self) -> str:
        """What the times are."""
        return "time per clip" if self.is_per_clip else "time of a step"

    @property
    def has_accuracy(self) -> bool:
        """Whether any point has one."""
        return any(point.accuracy is not None for point in self.points)


def field(cells: Sequence[CellSummary], workload: str) -> Field | None:
    """The cells of a workload that have both memory and time; None where there are none."""
    own = [cell for cell in cells if cell.entry.workload == workload]
    memory = next((name for name in _MEMORY if any(cell.value(name) is not None for cell in own)), _MEMORY[0])
    batches = {cell.description.effective_batch(cell.entry.setting) for cell in own}
    is_per_clip = len(batches) > 1 and None not in batches
    accuracies = _accuracies(cells)
    points = []
    for cell in own:
        time_s, needed = cell.value("step_time_s"), cell.value(memory)
        if time_s and needed and time_s > 0 and needed > 0:
            batch = (cell.description.effective_batch(cell.entry.setting) or 1) if is_per_clip else 1
            points.append(Point(cell, needed, time_s / batch, _accuracy(cell, accuracies)))
    marked = tuple(
        Point(one.cell, one.memory_bytes, one.time_s, one.accuracy, any(dominates(other, one) for other in points))
        for one in points
    )
    return Field(marked, memory, is_per_clip) if marked else None


def dominates(one: Point, other: Point) -> bool:
    """Whether ``one`` is nowhere worse than ``other`` and somewhere better. What has no accuracy is weighed by memory
    and time alone, and beats nothing whose accuracy is known.
    """
    if one.memory_bytes > other.memory_bytes or one.time_s > other.time_s:
        return False
    if one.accuracy is None and other.accuracy is not None:
        return False
    is_better = one.memory_bytes < other.memory_bytes or one.time_s < other.time_s
    if other.accuracy is None:
        return is_better
    assert one.accuracy is not None
    return one.accuracy >= other.accuracy and (is_better or one.accuracy > other.accuracy)


def _accuracies(cells: Sequence[CellSummary]) -> dict[tuple[str, str], float]:
    """(Arm, axes) -> accuracy of that training."""
    found = {}
    for cell in cells:
        value = cell.value(ACCURACY)
        if value is not None and cell.side == "a":
            found[cell.entry.arm, _axes(cell)] = value
            if cell.entry.is_own:
                found[cell.entry.arm, "own"] = value
    return found


def _accuracy(cell: CellSummary, accuracies: dict[tuple[str, str], float]) -> float | None:
    value = cell.value(ACCURACY)
    if value is not None:
        return value
    own = accuracies.get((cell.entry.arm, "own")) if cell.entry.is_own else None
    # A training without axes is that of the arm's own setting alone.
    return accuracies.get((cell.entry.arm, _axes(cell))) if cell.entry.coordinates and own is None else own


def _axes(cell: CellSummary) -> str:
    return json.dumps(cell.entry.coordinates, sort_keys=True)

"""The Pareto front of memory, time and accuracy: which cells no other cell dominates, as a section with its chart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from slr_bench.compare.cells import CellSummary
from slr_bench.report.charts.model import (
    Dot,
    LegendEntry,
    Scale,
    Scatter,
    arm_variable,
    memory_scale,
    memory_ticks,
    time_scale,
    time_ticks,
)
from slr_bench.report.formats.table import Cell, Column, Row, Section, Table, without_empty_columns
from slr_bench.report.run_report.techniques import AccuracySource
from slr_bench.report.text.wording import OTHERS, anchor, coordinates_text, label
from slr_bench.units import format_bytes, format_seconds, format_value, plain

_MEMORY: Final = ("peak_tensor_bytes", "peak_allocated_bytes")
"""The chart shows the first of these metrics that any cell has."""
COLOURED: Final = 5
"""Number of arms with a colour of their own, and with a name beside their own setting: the first ones."""
LABELLED: Final = 8
"""Number of known accuracies up to which each one is written into the chart, not only those of named cells."""


@dataclass(frozen=True)
class Point:
    """A cell with its memory, time and accuracy."""

    cell: CellSummary
    memory_bytes: float
    time_s: float
    """Time of a step; where effective batches differ, time per unit."""
    accuracy: float | None
    """Accuracy of the training with the same arm and axes, if there is one."""
    is_dominated: bool = False


@dataclass(frozen=True)
class TradeoffPoints:
    """The points of a workload, and what their figures are."""

    points: tuple[Point, ...]
    memory: str
    """The metric of the memory."""
    unit: str
    """The unit of the workload, where effective batches differ and time is per unit; else empty."""

    @property
    def pareto_front(self) -> tuple[Point, ...]:
        """The points that are not dominated, the fastest first."""
        return tuple(sorted((point for point in self.points if not point.is_dominated), key=lambda one: one.time_s))

    @property
    def edge(self) -> tuple[Point, ...]:
        """The points of the front that need less memory than all faster ones: no point lies below their line."""
        found: list[Point] = []
        for point in self.pareto_front:
            if not found or point.memory_bytes < found[-1].memory_bytes:
                found.append(point)
        return tuple(found)

    @property
    def time_text(self) -> str:
        """The meaning of the times."""
        return f"time per {self.unit}" if self.unit else "time of a step"

    @property
    def known_accuracies(self) -> int:
        """Number of points whose accuracy is known."""
        return sum(point.accuracy is not None for point in self.points)


def tradeoff_points(
    cells: Sequence[CellSummary], workload: str, accuracy: AccuracySource | None
) -> TradeoffPoints | None:
    """Return the cells of a workload that have both memory and time; None where there are none."""
    own = [cell for cell in cells if cell.entry.workload == workload]
    memory = next((name for name in _MEMORY if any(cell.value(name) is not None for cell in own)), _MEMORY[0])
    batches = {cell.entry.cell_id: cell.description.effective_batch(cell.entry.setting) for cell in own}
    is_per_unit = len(set(batches.values())) > 1 and None not in batches.values()
    unit = own[0].description.unit if is_per_unit else ""
    accuracies = _accuracies(cells, accuracy.metric) if accuracy else {}
    points = []
    for cell in own:
        time_s, needed = cell.value("step_time_s"), cell.value(memory)
        if time_s and needed and time_s > 0 and needed > 0:
            batch = (batches[cell.entry.cell_id] or 1) if unit else 1
            points.append(Point(cell, needed, time_s / batch, _accuracy(cell, accuracies, accuracy)))
    marked = tuple(replace(one, is_dominated=any(dominates(other, one) for other in points)) for one in points)
    return TradeoffPoints(marked, memory, unit) if marked else None


def dominates(one: Point, other: Point) -> bool:
    """Return whether ``one`` is better than ``other`` in one figure and worse in none.

    A point without an accuracy is judged by memory and time alone; it dominates no point whose accuracy is known.
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


def _accuracies(cells: Sequence[CellSummary], metric: str) -> dict[tuple[str, str], float]:
    """Map arm and axes of each training to its accuracy."""
    found = {}
    for cell in cells:
        value = cell.value(metric)
        if value is not None and cell.side == "a":
            found[cell.entry.arm, _axes(cell)] = value
            if cell.entry.is_own:
                found[cell.entry.arm, "own"] = value
    return found


def _accuracy(
    cell: CellSummary, accuracies: dict[tuple[str, str], float], source: AccuracySource | None
) -> float | None:
    if source is None:
        return None
    value = cell.value(source.metric)
    if value is not None:
        return value
    own = accuracies.get((cell.entry.arm, "own")) if cell.entry.is_own else None
    # A training without axes belongs to the arm's own setting alone.
    return accuracies.get((cell.entry.arm, _axes(cell))) if cell.entry.coordinates and own is None else own


def _axes(cell: CellSummary) -> str:
    return json.dumps(cell.entry.coordinates, sort_keys=True)


def front_section(found: TradeoffPoints | None, arms: Sequence[str]) -> Section | None:
    """Return the chart and a table of the cells on the front; None where there are fewer than two cells."""
    if found is None or len(found.points) < 2:
        return None
    front, count, known = found.pareto_front, len(found.points), found.known_accuracies
    what = "memory, time and accuracy" if known else "memory and time"
    text = f"{len(front)} of {count} cells are not dominated in {what}; the grey and the hollow ones are."
    if 0 < known < count:
        text += (
            f" The accuracy of {known} cells is known. The others are judged by memory and time alone, and dominate no "
            "cell whose accuracy is known."
        )
    text += " Times are medians: two that lie within each other's spread may change places."
    numbers = (label(found.memory), f"Time per {found.unit}" if found.unit else "Step time", "Accuracy")
    columns = (Column("Arm"), Column("Setting"), *(Column(title, numeric=True) for title in numbers))
    table = Table("Cells that are not dominated", columns, tuple(map(_row, front)), heads=1)
    return Section("front", "Pareto front", (text,), (without_empty_columns(table),), (scatter(found, arms),))


def _row(point: Point) -> Row:
    accuracy = point.accuracy
    cells = (
        Cell(plain(point.cell.entry.arm, 40), link=anchor(point.cell)),
        Cell(coordinates_text(point.cell)),
        Cell(format_value(point.memory_bytes, "bytes"), sort=point.memory_bytes),
        Cell(format_value(point.time_s, "s"), sort=point.time_s),
        Cell(format_value(accuracy, "ratio"), sort=accuracy),
    )
    return Row(cells, strong=point.cell.entry.is_own)


def scatter(found: TradeoffPoints, arms: Sequence[str]) -> Scatter:
    """Lay out memory against time. ``arms`` are those that the headline compares; the first ones have a colour each."""
    coloured = arms[:COLOURED]
    x = time_scale([point.time_s for point in found.points])
    y = memory_scale([point.memory_bytes for point in found.points])
    # Dominated dots lie below and own settings on top: the last dot is drawn last.
    ordered = sorted(found.points, key=lambda one: (_is_compared(one, coloured), not one.is_dominated))
    colours = {arm: arm_variable(place) for place, arm in enumerate([*coloured, OTHERS])}
    present = {_group(point, coloured) for point in found.points}
    return Scatter(
        title="Memory against time",
        dots=tuple(_dot(point, x, y, found, colours) for point in ordered),
        front=tuple((x.position(point.time_s), y.position(point.memory_bytes)) for point in found.edge),
        x_ticks=time_ticks(x),
        y_ticks=memory_ticks(y),
        x_label=f"{found.time_text} (median)",
        y_label=f"peak memory{', logarithmic' if y.is_logarithmic else ''}",
        legend=tuple(LegendEntry(colour, plain(arm, 30)) for arm, colour in colours.items() if arm in present),
    )


def _dot(point: Point, x: Scale, y: Scale, found: TradeoffPoints, colours: dict[str, str]) -> Dot:
    is_own = _is_compared(point, list(colours))
    is_labelled = point.accuracy is not None and (is_own or found.known_accuracies <= LABELLED)
    return Dot(
        x.position(point.time_s),
        y.position(point.memory_bytes),
        colours[_group(point, list(colours))],
        describe_point(point),
        name=plain(point.cell.entry.arm, 24) if is_own else "",
        accuracy=format_value(point.accuracy, "ratio") if is_labelled else "",
        link=anchor(point.cell),
        is_own=is_own,
        is_dominated=point.is_dominated,
    )


def _is_compared(point: Point, arms: Sequence[str]) -> bool:
    return point.cell.entry.is_own and point.cell.entry.arm in arms


def _group(point: Point, arms: Sequence[str]) -> str:
    return point.cell.entry.arm if point.cell.entry.arm in arms else OTHERS


def describe_point(point: Point) -> str:
    """Return arm, setting, memory, time and accuracy in one line."""
    text = f"{plain(point.cell.entry.arm, 40)} ({coordinates_text(point.cell)})"
    text += f": {format_bytes(point.memory_bytes)}, {format_seconds(point.time_s)}"
    return text if point.accuracy is None else f"{text}, accuracy {format_value(point.accuracy, 'ratio')}"

"""Memory against time as the page draws it: dots that lead to their cell, and the line that no cell beats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

from slr_bench.report.charts.axes import Tick, doublings, round_ticks, short, short_bytes
from slr_bench.report.charts.palette import arm_variable
from slr_bench.report.run_report.pareto import Field, Point
from slr_bench.report.text.cell_names import OTHERS, anchor, coordinates_text
from slr_bench.report.text.words import format_value, plain
from slr_bench.units import format_bytes, format_seconds

COLOURED: Final = 5
"""Arms with a colour of their own, and their own settings with a name beside the dot: the first ones."""
LABELLED: Final = 8
"""Accuracies up to which all are written into the chart; of more, those of the named settings."""
_SIZE: Final = 1000
"""Units of the front's path along each axis."""


class Dot(NamedTuple):
    """A cell: its place from left and bottom (0 to 1), and what it says."""

    x: float
    y: float
    colour: str
    text: str
    name: str
    """Shown beside it; empty for most."""
    accuracy: str
    """Shown below the name."""
    link: str
    is_own: bool
    is_dominated: bool


class Key(NamedTuple):
    """A colour and what it stands for."""

    colour: str
    text: str


@dataclass(frozen=True)
class Scatter:
    """A dot a cell."""

    kind: ClassVar[str] = "scatter"
    title: str
    dots: tuple[Dot, ...]
    front: str
    """SVG path in a square of 1000."""
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_label: str
    y_label: str
    keys: tuple[Key, ...]

    @property
    def has_hollow(self) -> bool:
        """Whether an own setting is beaten: its dot is a ring in the arm's colour."""
        return any(dot.is_own and dot.is_dominated for dot in self.dots)


class Axis(NamedTuple):
    """From value to place."""

    low: float
    high: float
    is_logarithmic: bool

    def place(self, value: float) -> float:
        """0 to 1."""
        if self.is_logarithmic:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)


def scatter(field: Field, arms: Sequence[str]) -> Scatter:
    """Lay out the points; ``arms`` are those that the headline compares, the first have a colour each."""
    arms = arms[:COLOURED]
    x, y = time_axis(field.points), memory_axis(field.points)
    groups = [*arms, OTHERS]
    named = [point for point in field.points if is_compared(point, arms)]
    is_labelled = has_labels(field)
    dots = []
    # What is dominated lies below, own settings on top: the last in the page is drawn last.
    for point in sorted(field.points, key=lambda one: (is_compared(one, arms), not one.is_dominated)):
        dots.append(
            Dot(
                x.place(point.time_s),
                y.place(point.memory_bytes),
                arm_variable(groups.index(group_of(point, arms))),
                describe_point(point),
                *label_of(point, point in named, is_labelled),
                anchor(point.cell),
                is_compared(point, arms),
                point.is_dominated,
            )
        )
    present = [group for group in groups if any(group_of(point, arms) == group for point in field.points)]
    return Scatter(
        title="Memory against time",
        dots=tuple(dots),
        front=_front_path(field, x, y),
        x_ticks=tuple(
            Tick(short(format_value(value, "s")) if value else "0", x.place(value))
            for value in round_ticks(x.low, x.high)
        ),
        y_ticks=tuple(Tick(short_bytes(value), y.place(value)) for value in _memory_marks(y)),
        x_label=f"{field.time_text} (median)",
        y_label=f"peak memory{', logarithmic' if y.is_logarithmic else ''}",
        keys=tuple(Key(arm_variable(groups.index(group)), plain(group, 30)) for group in present),
    )


def is_compared(point: Point, arms: Sequence[str]) -> bool:
    """Whether it is an own setting of these arms."""
    return point.cell.entry.is_own and point.cell.entry.arm in arms


def has_labels(field: Field) -> bool:
    """Whether few enough accuracies are known to write each beside its dot."""
    return sum(point.accuracy is not None for point in field.points) <= LABELLED


def label_of(point: Point, is_named: bool, is_labelled: bool) -> tuple[str, str]:
    """``optimized``, ``52.0 %``: what stands beside the dot; empty where nothing does."""
    accuracy = format_value(point.accuracy, "ratio") if point.accuracy is not None else ""
    return plain(point.cell.entry.arm, 24) if is_named else "", accuracy if is_named or is_labelled else ""


def group_of(point: Point, arms: Sequence[str]) -> str:
    """The arm, or one name for all others."""
    return point.cell.entry.arm if point.cell.entry.arm in arms else OTHERS


def describe_point(point: Point) -> str:
    """Arm, setting, memory, time and accuracy in a line."""
    text = f"{plain(point.cell.entry.arm, 40)} ({coordinates_text(point.cell)})"
    text += f": {format_bytes(point.memory_bytes)}, {format_seconds(point.time_s)}"
    return text if point.accuracy is None else f"{text}, accuracy {format_value(point.accuracy, 'ratio')}"


def memory_axis(points: Sequence[Point]) -> Axis:
    """Logarithmic where arms differ fourfold: on a linear axis the smaller would lie on the floor."""
    memories = [point.memory_bytes for point in points]
    low, high = min(memories), max(memories)
    return Axis(low / 1.4, high * 1.5, True) if high >= 4 * low else Axis(0, high * 1.15, False)


def time_axis(points: Sequence[Point]) -> Axis:
    """From 0 where the times differ much, else cut off below the quickest."""
    times_s = [point.time_s for point in points]
    low, high = min(times_s), max(times_s)
    return Axis(0.0 if low < high / 3 else low * 0.85, high * 1.15, False)


def _memory_marks(axis: Axis) -> tuple[float, ...]:
    if axis.is_logarithmic:
        return doublings(axis.low, axis.high)
    step = 2.0 ** math.floor(math.log2(axis.high / 3))
    return tuple(step * count for count in range(math.floor(axis.high / step) + 1))


def _front_path(field: Field, x: Axis, y: Axis) -> str:
    """Steps over the least memory at each time, from the quickest point on."""
    parts: list[str] = []
    for point in field.edge:
        across, down = round(_SIZE * x.place(point.time_s)), round(_SIZE * (1 - y.place(point.memory_bytes)))
        parts.append(f"H{across}V{down}" if parts else f"M{across} {down}")
    return "".join(parts)

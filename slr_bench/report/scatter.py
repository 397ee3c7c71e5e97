"""Memory against time: what each saving costs, and which cells nothing beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from slr_bench.compare.summary import CellSummary
from slr_bench.report.content import RunContent
from slr_bench.report.drawing import INK, MUTED, WIDTH_INCH, Picture, arm_colour, byte_axis, draw, legend
from slr_bench.report.sections import coordinates_text
from slr_bench.report.setting import effective_batch
from slr_bench.report.words import plain
from slr_bench.units import format_bytes, format_seconds

PARTIAL = "with some of the techniques"


@dataclass(frozen=True)
class _Point:
    cell: CellSummary
    time_s: float
    memory_bytes: float
    colour: str
    group: str
    """Name in the key."""

    @property
    def is_own(self) -> bool:
        """Whether it is an own setting that the headline compares."""
        return self.cell.entry.is_own and self.group != PARTIAL

    @property
    def text(self) -> str:
        """What the tooltip says."""
        name = f"{plain(self.cell.entry.arm, 40)} ({coordinates_text(self.cell)})"
        return f"{name}: {format_bytes(self.memory_bytes)}, {format_seconds(self.time_s)}"


def memory_against_time(content: RunContent) -> Picture | None:
    """A dot a cell; where effective batches differ, time is that of one clip."""
    cells = [cell for cell in content.cells if cell.entry.workload == content.workload]
    batches = {effective_batch(cell.entry.setting) for cell in cells}
    per_clip = len(batches) > 1 and None not in batches
    points = _points(cells, content.arms, per_clip=per_clip)
    if not points:
        return None
    what = "time per clip" if per_clip else "time of a step"

    def paint(figure: Figure) -> dict[str, str]:
        axes = figure.subplots()
        front = pareto_front([(point.time_s, point.memory_bytes) for point in points])
        times_s, memories = zip(*front, strict=True)
        axes.plot(times_s, memories, color=MUTED, linestyle="--", linewidth=1, drawstyle="steps-post")
        for place, point in enumerate(points):
            _paint_point(axes, point, f"point-{place}")
        present = {point.group: point.colour for point in points}
        front_key = Line2D([], [], color=MUTED, linestyle="--", linewidth=1)
        names = [plain(arm, 24) for arm in present]
        legend(axes, [*map(_dot, present.values()), front_key], [*names, "no cell beats this line"])
        _scale(axes, points, what)
        return {f"point-{place}": point.text for place, point in enumerate(points)}

    own = "; ".join(point.text for point in points if point.is_own)
    alt = plain(f"Scatter of peak tensor memory against {what} for {len(points)} cells. Own settings: {own}.", 600)
    return draw("memory-time", "Memory against time", alt, (WIDTH_INCH, 3.9), paint)


def _points(cells: Sequence[CellSummary], arms: Sequence[str], *, per_clip: bool) -> list[_Point]:
    points = []
    for cell in cells:
        time_s, memory = cell.value("step_time_s"), cell.value("peak_tensor_bytes")
        batch = (effective_batch(cell.entry.setting) or 1) if per_clip else 1
        if time_s and memory:
            group = cell.entry.arm if cell.entry.arm in arms else PARTIAL
            colour = arm_colour([*arms, PARTIAL].index(group))
            points.append(_Point(cell, time_s / batch, memory, colour, group))
    return points


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in one coordinate without losing in the other, by the first coordinate."""
    front: list[tuple[float, float]] = []
    for point in sorted(set(points)):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def _scale(axes: Axes, points: Sequence[_Point], what: str) -> None:
    memories = [point.memory_bytes for point in points]
    # Arms that differ eightfold would lie on the floor of a linear axis.
    wide = max(memories) >= 4 * min(memories)
    if wide:
        axes.set_yscale("log", base=2)
        axes.set_ylim(min(memories) / 1.4, max(memories) * 1.5)
    else:
        axes.set_ylim(0, max(memories) * 1.15)
    byte_axis(axes.yaxis, memories, logarithmic=wide)
    times_s = [point.time_s for point in points]
    left = 0.0 if min(times_s) < max(times_s) / 3 else min(times_s) * 0.85
    axes.set_xlim(left, max(times_s) * 1.15)
    axes.xaxis.set_major_formatter(lambda value, _: format_seconds(value) if value else "0")
    axes.grid()
    axes.set_xlabel(f"{what} (median){'; memory on a logarithmic axis' if wide else ''}")
    axes.set_ylabel("peak tensor memory")


def _dot(colour: str) -> Line2D:
    return Line2D([], [], marker="o", linestyle="", color=colour, markersize=7)


def _paint_point(axes: Axes, point: _Point, gid: str) -> None:
    own = point.is_own
    axes.plot(
        point.time_s,
        point.memory_bytes,
        marker="o",
        color=point.colour,
        markersize=10 if own else 6.5,
        alpha=1.0 if own else 0.6,
        markeredgecolor=INK,
        markeredgewidth=1.1 if own else 0,
        gid=gid,
    )
    if own:
        at = (point.time_s, point.memory_bytes)
        name = plain(point.cell.entry.arm, 24)
        axes.annotate(name, at, xytext=(8, 6), textcoords="offset points", fontweight="bold", color=INK)

"""Memory against time as a picture: what each saving costs, and which cells nothing beats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from slr_bench.report.charts.axes import short
from slr_bench.report.charts.matplotlib_canvas import (
    INK,
    MUTED,
    WIDTH_INCH,
    Picture,
    arm_colour,
    byte_axis,
    draw,
    legend,
)
from slr_bench.report.run_report.content import RunContent
from slr_bench.report.run_report.pareto import Field, Point
from slr_bench.report.run_report.scatter import (
    COLOURED,
    describe_point,
    group_of,
    has_labels,
    is_compared,
    label_of,
    memory_axis,
    time_axis,
)
from slr_bench.report.text.cell_names import OTHERS
from slr_bench.report.text.words import plain
from slr_bench.units import format_seconds


def memory_against_time(content: RunContent) -> Picture | None:
    """A dot a cell, grey where another beats it; where effective batches differ, time is that of one clip."""
    field = content.field
    if field is None:
        return None
    is_labelled = has_labels(field)
    arms = content.arms[:COLOURED]
    groups = [*arms, OTHERS]
    own = [point for point in field.points if is_compared(point, arms)]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        edge = [(point.time_s, point.memory_bytes) for point in field.edge]
        axes.plot(*zip(*edge, strict=True), color=MUTED, linestyle="--", linewidth=1, drawstyle="steps-post", zorder=1)
        present = {}
        for group in groups:
            of_group = [point for point in field.points if group_of(point, arms) == group]
            if of_group:
                present[group] = arm_colour(groups.index(group))
                _paint_points(axes, of_group, present[group], own)
        for point in field.points:
            if name := " ".join(label_of(point, point in own, is_labelled)).strip():
                beside, weight = (point.time_s, point.memory_bytes), "bold" if point in own else "normal"
                axes.annotate(name, beside, xytext=(8, 6), textcoords="offset points", fontweight=weight, color=INK)
        _key(axes, present)
        _scale(axes, field)

    said = f" Own settings: {'; '.join(map(describe_point, own))}." if own else ""
    alt = plain(f"Scatter of peak memory against {field.time_text} for {len(field.points)} cells.{said}", 600)
    return draw("memory-time", "Memory against time", alt, (WIDTH_INCH, 3.9), paint)


def _key(axes: Axes, present: dict[str, str]) -> None:
    front = Line2D([], [], color=MUTED, linestyle="--", linewidth=1)
    dots = [Line2D([], [], marker="o", linestyle="", color=colour, markersize=7) for colour in present.values()]
    texts = [*(plain(name, 24) for name in present), "no cell beats this line; grey or hollow: beaten"]
    legend(axes, [*dots, front], texts, columns=3)


def _scale(axes: Axes, field: Field) -> None:
    x, y = time_axis(field.points), memory_axis(field.points)
    if y.is_logarithmic:
        axes.set_yscale("log", base=2)
    axes.set_ylim(y.low, y.high)
    axes.set_xlim(x.low, x.high)
    byte_axis(axes.yaxis, [y.high], logarithmic=y.is_logarithmic)
    axes.xaxis.set_major_formatter(lambda value, _: short(format_seconds(value)) if value else "0")
    axes.grid()
    axes.set_xlabel(f"{field.time_text} (median){'; memory on a logarithmic axis' if y.is_logarithmic else ''}")
    axes.set_ylabel("peak memory")


def _paint_points(axes: Axes, points: Sequence[Point], colour: str, own: Sequence[Point]) -> None:
    """In one go for each look: hundreds of artists of their own took half a second."""
    looks: dict[tuple[bool, bool], list[Point]] = {}
    for point in points:
        looks.setdefault((point.is_dominated, point in own), []).append(point)
    for (is_dominated, is_own), alike in looks.items():
        axes.scatter(
            [point.time_s for point in alike],
            [point.memory_bytes for point in alike],
            s=100 if is_own else 42,
            zorder=2 + is_own,
            **_look(colour, is_dominated, is_own),
        )


def _look(colour: str, is_dominated: bool, is_own: bool) -> dict[str, Any]:
    """What is beaten is grey; an own setting keeps its arm's colour and is hollow."""
    if is_own and is_dominated:
        return {"facecolors": "none", "edgecolors": colour, "linewidths": 2.6}
    if is_own:
        return {"facecolors": colour, "edgecolors": INK, "linewidths": 1.1}
    return {"facecolors": MUTED if is_dominated else colour, "alpha": 0.4 if is_dominated else 1.0, "linewidths": 0}

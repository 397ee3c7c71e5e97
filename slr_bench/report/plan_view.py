"""A plan as text, as a training file, and as a picture of memory against time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console
from rich.text import Text

from slr_bench.grid.cells import flatten
from slr_bench.predict.plan import Point
from slr_bench.predict.planner import Planned
from slr_bench.report.table import Cell, Column, Row, Table
from slr_bench.report.terminal import print_table
from slr_bench.report.words import plain
from slr_bench.units import format_bytes, format_seconds

NEIGHBOURS_SHOWN: Final = 8


def print_plan(planned: Planned, console: Console) -> None:
    """The choice, what was beside it and why not, and the front."""
    plan = planned.plan
    best = plan.evaluated[plan.chosen]
    console.print(Text(plain(_headline(planned), 400), style="bold"))
    changes = planned.differences[plan.chosen]
    what = ", ".join(f"{key}: {_value(value)}" for key, value in changes.items()) or "nothing: it is the setting given"
    console.print(Text(f"Changed: {what}"))
    _print_prediction(planned, console)
    rows = tuple(
        Row(
            (
                Cell(_name(planned, one.point)),
                Cell(plain(one.reason, 160)),
                Cell(format_bytes(one.bytes) if one.bytes else ""),
            )
        )
        for one in plan.rejected[:NEIGHBOURS_SHOWN]
    )
    if rows:
        columns = (Column("Setting"), Column("Why not"), Column("Over", True))
        print_table(Table(f"The nearest of {len(plan.rejected)} rejected", columns, rows), console)
    front = tuple(
        Row(
            (
                Cell(_name(planned, point)),
                Cell(format_bytes(plan.evaluated[point].need_bytes)),
                Cell(format_seconds(plan.evaluated[point].seconds)),
                Cell(f"{plan.evaluated[point].seconds / best.seconds:.2f}×"),
            ),
            strong=point == plan.chosen,
        )
        for point in plan.pareto
    )
    heads = (Column("Setting"), Column("Memory", True), Column("Step", True), Column("Time", True))
    print_table(Table("What nothing beats in memory and time", heads, front), console)
    for line in (f"Time: {planned.time_source}.", *planned.left_alone):
        console.print(Text(plain(line, 200), style="dim"))


def _headline(planned: Planned) -> str:
    best, budget = planned.plan.evaluated[planned.plan.chosen], planned.budget
    count = len(planned.plan.evaluated)
    if budget.slower is not None:
        return (
            f"The least memory of {count} settings within {100 * budget.slower:.0f} % of the fastest's time: "
            f"{format_bytes(best.need_bytes)} at most, {format_seconds(best.seconds)} a step"
        )
    return (
        f"The fastest of {count} settings that fits {format_bytes(budget.total_bytes)} with "
        f"{100 * budget.headroom:.0f} % left free: {format_bytes(min(best.need_bytes, budget.bytes))} at most, "
        f"{format_seconds(best.seconds)} a step"
    )


def _print_prediction(planned: Planned, console: Console) -> None:
    prediction = planned.plan.evaluated[planned.plan.chosen].prediction
    if prediction is None:
        return
    nvml, traced = prediction.nvml, prediction.foreseen
    parts = sorted(traced["by_category"].items(), key=lambda item: -item[1])[:3]
    named = ", ".join(f"{format_bytes(count)} {name}" for name, count in parts)
    shown = f"{format_bytes(nvml.value)} ({format_bytes(nvml.low)} to {format_bytes(nvml.high)})"
    peak = format_bytes(traced["peak_tensor_bytes"])
    console.print(Text(f"NVML will show {shown}; tensors at the peak {peak}: {named}"))
    if planned.budget.total_bytes is not None and nvml.high > planned.budget.bytes:
        console.print(Text("In the budget the allocator may have to give cached memory back, which costs time."))
    for point, one in planned.probed.items():
        seen = "out of memory" if one.peak_bytes is None else f"{format_bytes(one.peak_bytes)}"
        console.print(Text(f"Measured: {_name(planned, point)}: {seen}, {format_seconds(one.seconds)} a step"))


def _name(planned: Planned, point: Point) -> str:
    changes = planned.differences[point]
    words = [f"{key.rpartition('.')[2]} {_value(value)}" for key, value in changes.items()]
    return plain(", ".join(words) or "as given", 90)


def _value(value: Any) -> str:
    return "null" if value is None else str(value)


def write_setting(planned: Planned, path: Path) -> None:
    """The chosen setting as a training file, whole."""
    cell = planned.cells[planned.plan.chosen]
    values = cell.settings.model_dump(mode="json")
    best = planned.plan.evaluated[planned.plan.chosen]
    changes = flatten(dict(planned.differences[planned.plan.chosen]))
    head = [f"# {_headline(planned)}.", "# Predicted, not measured." if not planned.probed else "# Measured."]
    head += [f"# changed: {key}: {_value(value)}" for key, value in changes.items()]
    head += [f"# needs at most {best.need_bytes} bytes on {planned.device.title}"]
    path.write_text("\n".join(head) + "\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def write_picture(planned: Planned, path: Path) -> None:
    """Memory against time of every setting looked at: the front joined, the choice named, the budget as a line."""
    from slr_bench.report.drawing import INK, MUTED, RULE, WARN, WIDTH_INCH, arm_colour, byte_axis, draw, legend

    plan = planned.plan
    points = {point: (found.need_bytes, found.seconds) for point, found in plan.evaluated.items()}
    limit = planned.budget.bytes if planned.budget.total_bytes is not None else None

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        over = [place for place in points.values() if limit is not None and place[0] > limit]
        under = [place for place in points.values() if limit is None or place[0] <= limit]
        for places, colour, label in ((under, arm_colour(1), "fits"), (over, RULE, "does not fit")):
            if places:
                axes.scatter(*zip(*places, strict=True), s=26, color=colour, label=label, zorder=2)
        front = [points[point] for point in plan.pareto]
        axes.plot(*zip(*front, strict=True), color=MUTED, linewidth=1, zorder=1, drawstyle="steps-post", label="front")
        chosen = points[plan.chosen]
        axes.scatter([chosen[0]], [chosen[1]], s=110, facecolors="none", edgecolors=INK, linewidths=1.6, zorder=3)
        axes.annotate("chosen", chosen, xytext=(9, 9), textcoords="offset points", color=INK, fontweight="bold")
        if limit is not None:
            axes.axvline(limit, color=WARN, linewidth=1)
            axes.annotate(f"budget {format_bytes(limit)}", (limit, 1), xycoords=("data", "axes fraction"), color=WARN,
                          xytext=(4, -12), textcoords="offset points")  # fmt: skip
        axes.set_xscale("log", base=2)
        byte_axis(axes.xaxis, [place[0] for place in points.values()], logarithmic=True)
        axes.set_xlabel("memory of the process, at most (logarithmic axis)")
        axes.set_ylabel("time of a step, s")
        axes.set_ylim(bottom=0)
        axes.grid(axis="both")
        axes.set_title(f"chosen: {_name(planned, plan.chosen)}", loc="left", fontsize="small", color=INK, pad=26)
        handles, labels = axes.get_legend_handles_labels()
        legend(axes, handles, labels)

    alt = f"Memory against time of {len(points)} settings. {_headline(planned)}."
    drawn = draw("plan", "Memory against time", plain(alt, 600), (WIDTH_INCH, 4.2), paint)
    if path.suffix.lower() == ".svg":
        path.write_text(drawn.svg)
    else:
        path.write_bytes(drawn.png)

"""Memory over one step, or RAM over a run, as a picture: one panel an arm's own setting."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from slr_bench.compare.cells import own_cell
from slr_bench.report.charts.matplotlib_canvas import INK, RULE, WIDTH_INCH, Picture, arm_colour, byte_axis, draw
from slr_bench.report.charts.palette import category_variable, light
from slr_bench.report.charts.timeline import Timeline, parse_samples, rss_timeline, traced_timeline
from slr_bench.report.run_report.content import RunContent
from slr_bench.report.text.words import plain
from slr_bench.units import format_bytes

MAX_PANELS: Final = 4
"""Arms side by side; the first ones."""
SHARED: Final = 3
"""Largest ratio of peaks at which panels share an axis: beyond it the smaller ones would be flat lines."""


class Panel(NamedTuple):
    """An arm's line."""

    arm: str
    place: int
    line: Timeline
    floor_bytes: float | None


TIMELINES: Final = {
    True: ("live-bytes", "Memory within one step", "live tensor bytes over one traced step"),
    False: ("ram", "RAM over the run", "RAM of one process over its run"),
}
"""Traced or not -> file, title, what it shows."""


def memory_over_time(content: RunContent, *, traced: bool) -> Picture | None:
    """Live tensor bytes over the traced step by what they are, or RAM over seconds; phases below."""
    panels = _panels(content, traced)
    if not panels:
        return None
    peaks = [max(panel.line.y_bytes) for panel in panels]
    shades = _shades(panels)
    categories = list(dict.fromkeys(name for panel in panels for name in panel.line.series))

    def paint(figure: Figure) -> None:
        is_shared = max(peaks) <= SHARED * min(peaks)
        for axes, panel, peak in zip(_axes(figure, len(panels), is_shared), panels, peaks, strict=True):
            _paint(axes, panel, shades)
            axes.set_title(f"{plain(panel.arm, 24)}: {format_bytes(peak)}", loc="left", fontweight="bold", fontsize=10)
            axes.set_xlabel("the step, operator by operator" if traced else "seconds since the run began")
            axes.set_ylim(0, 1.1 * (max(peaks) if is_shared else peak) or 1)
            byte_axis(axes.yaxis, [max(peaks) if is_shared else peak])
            if traced:
                axes.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        keys = [Patch(color=light(category_variable(name))) for name in categories]
        keys += [Patch(color=shade) for shade in shades.values()]
        names = [plain(name, 24) for name in (*categories, *shades)]
        if keys:
            figure.legend(keys, names, loc="outside lower left", ncols=5, fontsize="small")

    said = "; ".join(f"{plain(panel.arm, 40)} {format_bytes(peak)}" for panel, peak in zip(panels, peaks, strict=True))
    name, title, what = TIMELINES[traced]
    alt = plain(f"Small multiples of {what}, one panel an arm. Highest: {said}.", 600)
    return draw(name, title, alt, (WIDTH_INCH, 3.5), paint)


def _panels(content: RunContent, traced: bool) -> list[Panel]:
    found = []
    for place, arm in enumerate(content.arms[:MAX_PANELS]):
        cell = own_cell(content.cells, arm, content.workload)
        for record in cell.finished if cell else ():
            samples = parse_samples(content.directory.store.read_samples(record.name))
            line = None if samples is None else traced_timeline(samples) if traced else rss_timeline(samples)
            if cell is not None and line is not None:
                found.append(Panel(arm, place, line, cell.value("floor_bytes") if traced else None))
                break
    return found


def _axes(figure: Figure, count: int, is_shared: bool) -> Any:
    return figure.subplots(1, count, sharey=is_shared, squeeze=False)[0]


def _shades(panels: list[Panel]) -> dict[str, Any]:
    """Phases in shades of ink: the colours are the categories'."""
    names = list(dict.fromkeys(name for panel in panels for name, _, _ in panel.line.stretches))
    last = max(1, len(names) - 1)
    return {name: _mixed(0.25 + 0.65 * place / last) for place, name in enumerate(names)}


def _mixed(share: float) -> tuple[float, ...]:
    """Ink in white."""
    return tuple(1 - share * (1 - part) for part in to_rgb(INK))


def _paint(axes: Axes, panel: Panel, shades: dict[str, Any]) -> None:
    line = panel.line
    if line.series:
        colours = [light(category_variable(name)) for name in line.series]
        axes.stackplot(line.x, list(line.series.values()), colors=colours, linewidth=0, step="post")
    else:
        axes.fill_between(line.x, line.y_bytes, color=arm_colour(panel.place), linewidth=0, step="post")
    if panel.floor_bytes:
        axes.axhline(panel.floor_bytes, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
        text = f"floor {format_bytes(panel.floor_bytes)}"
        axes.annotate(text, (line.x[-1], panel.floor_bytes), xytext=(0, 2), textcoords="offset points", ha="right",
                      fontsize="small", color=INK)  # fmt: skip
    for name, start, end in line.stretches:
        axes.axvspan(start, end, ymin=0, ymax=0.03, color=shades[name], linewidth=0, zorder=3)
    axes.set_xlim(line.x[0], line.x[-1])
    axes.grid(axis="y", color=RULE)

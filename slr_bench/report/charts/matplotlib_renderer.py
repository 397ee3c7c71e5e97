"""Draws the models of charts with matplotlib: as SVG and PNG files, and as SVG whose colours follow the page's theme.

matplotlib draws once, in the colours of the light theme; the copy for the page has a CSS variable for each colour.
"""

from __future__ import annotations

import base64
import html
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from slr_bench.report.charts.memory import LIVE, StackedArea
from slr_bench.report.charts.model import (
    PALETTE,
    BarChart,
    Dot,
    Scatter,
    Tick,
    light,
)
from slr_bench.units import plain

WIDTH_INCH: Final = 7.6
INK, MUTED, RULE, WARN = map(light, ("ink", "muted", "rule", "warn"))

_STYLE: Final[Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and set in the page's font
    "svg.hashsalt": "slr-bench",  # the same drawing gives the same file
    "text.parse_math": False,  # an arm may be named $x
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.facecolor": "none",
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.1,  # inch; laid out for the SVG, whose letters are a little narrower
}


@dataclass(frozen=True)
class Picture:
    """A finished picture. ``svg`` and ``png`` stand alone; ``inline_svg`` is for the page with its themes."""

    name: str
    title: str
    alt: str
    svg: str
    inline_svg: str
    png: bytes


def draw(
    name: str,
    title: str,
    alt: str,
    size_inch: tuple[float, float],
    paint: Callable[[Figure], object],
) -> Picture:
    """Run ``paint`` on an empty figure, and return the figure as a picture."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes in the PNG and correctly in the SVG.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size_inch, facecolor="none", edgecolor="none")
        paint(figure)
        text, image = io.StringIO(), io.BytesIO()
        # The canvases are called by themselves, because ``savefig`` draws each figure twice.
        svg_canvas: Any = FigureCanvasSVG(figure)
        svg_canvas.print_svg(text, metadata={"Date": None, "Creator": None})
        figure.set_layout_engine("none")  # laid out once; a second time costs as much as drawing
        figure.set(dpi=144, facecolor="white")
        png_canvas: Any = FigureCanvasAgg(figure)
        png_canvas.print_png(image)
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL)
    return Picture(name, title, alt, svg, _inline(svg, name, alt), image.getvalue())


def kept_picture(name: str, title: str, alt: str, svg: str, png: bytes) -> Picture:
    """Return a picture that was drawn before. The page gets the PNG, because an SVG from a file may hold scripts."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return Picture(name, title, alt, svg, f'<img alt="{html.escape(alt, quote=True)}" src="{source}">', png)


def _inline(svg: str, name: str, alt: str) -> str:
    """Return the SVG for the page: with CSS variables and unique ids, without XML prologue and fixed size."""
    body = svg[svg.index("<svg") :]
    for variable, (colour, _) in PALETTE.items():
        body = body.replace(colour, f"var(--{variable})")
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    body = body.replace("'DejaVu Sans'", "system-ui, sans-serif")
    opening = re.sub(r' (width|height)="[^"]*pt"', "", body[: body.index(">")])
    label = html.escape(alt, quote=True)
    return f'{opening} role="img" aria-label="{label}"{body[body.index(">") :]}'


def legend(axes: Axes, handles: Sequence[Any], labels: Sequence[str], columns: int = 4) -> None:
    """Draw a legend above the plot. matplotlib hides a text that begins with an underscore; here it stays visible."""
    shown = [f"\u2009{text}" if text.startswith("_") else text for text in labels]
    axes.legend(handles, shown, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2)


def bars_picture(
    name: str, title: str, alt: str, charts: Sequence[BarChart], widths: Sequence[float] = (1,)
) -> Picture:
    """Draw bar charts side by side. They have the same rows; the first chart has the labels."""
    labels = [row.label for row in charts[0].rows]
    entries = charts[0].legend

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, len(charts), squeeze=False, width_ratios=widths)[0]
        for place, (axes, chart) in enumerate(zip(panels, charts, strict=True)):
            axes.set_yticks(range(len(labels)), labels if place == 0 else [""] * len(labels))
            _paint_bars(axes, chart)
        if entries:
            handles = [Patch(color=light(entry.colour)) for entry in entries]
            figure.legend(handles, [entry.text for entry in entries], loc="outside lower left", ncols=4)

    return draw(name, title, alt, (WIDTH_INCH, 1.15 + 0.29 * len(labels) + (0.35 if entries else 0)), paint)


def _paint_bars(axes: Axes, chart: BarChart) -> None:
    is_mixed = len({row.is_strong for row in chart.rows}) > 1  # where all rows are alike, none is bold
    for place, (row, label) in enumerate(zip(chart.rows, axes.get_yticklabels(), strict=True)):
        weight = "bold" if is_mixed and row.is_strong else "normal"
        label.set(color=INK, fontweight=weight)
        for bar in row.bars:
            axes.barh(place, bar.end - bar.start, left=bar.start, height=0.66, color=light(bar.colour),
                      alpha=1.0 if row.is_strong else 0.42, linewidth=0)  # fmt: skip
        if row.link_position is not None:
            axes.plot([row.link_position] * 2, [place - 0.67, place + 0.33], color=MUTED, linewidth=0.8)
        axes.annotate(
            row.text, (row.text_position, place), xytext=(5, 0), textcoords="offset points", va="center",
            color=WARN if row.is_warning else INK, style="italic" if row.is_warning else "normal", fontweight=weight,
        )  # fmt: skip
    axes.set_xlim(0, 1 + chart.room)
    axes.set_ylim(len(chart.rows) - 0.4, -0.6)
    _set_ticks(axes.xaxis, chart.ticks)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.grid(axis="x")
    axes.set_title(chart.title, loc="left", fontsize="small", color=MUTED)
    axes.set_xlabel(chart.x_label)


def _set_ticks(axis: Axis, ticks: Sequence[Tick]) -> None:
    axis.set_ticks([tick.position for tick in ticks], [tick.text for tick in ticks])


def scatter_picture(name: str, alt: str, chart: Scatter) -> Picture:
    """Draw a scatter chart."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(*zip(*chart.front, strict=True), color=MUTED, linestyle="--", linewidth=1, drawstyle="steps-post",
                  zorder=1)  # fmt: skip
        _paint_dots(axes, chart.dots)
        _scatter_legend(axes, chart)
        if chart.limit is not None:
            axes.axhline(chart.limit.position, color=WARN, linewidth=1)
            axes.annotate(chart.limit.text, (1, chart.limit.position), xytext=(-2, 2), ha="right", va="bottom",
                          textcoords="offset points", color=WARN)  # fmt: skip
        _set_ticks(axes.xaxis, chart.x_ticks)
        _set_ticks(axes.yaxis, chart.y_ticks)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=chart.x_label, ylabel=chart.y_label)
        axes.grid()

    return draw(name, chart.title, alt, (WIDTH_INCH, 3.9), paint)


def _paint_dots(axes: Axes, dots: Sequence[Dot]) -> None:
    """Draw all dots of one look at once: hundreds of single artists take half a second."""
    looks: dict[tuple[str, bool, bool], list[Dot]] = {}
    for dot in dots:
        looks.setdefault((dot.colour, dot.is_dominated, dot.is_own), []).append(dot)
        if label := f"{dot.name} {dot.accuracy}".strip():
            axes.annotate(label, (dot.x, dot.y), xytext=(8, 6), textcoords="offset points",
                          fontweight="bold" if dot.is_own else "normal", color=INK)  # fmt: skip
    for (variable, is_dominated, is_own), alike in looks.items():
        colour = MUTED if is_dominated and not is_own else light(variable)
        axes.scatter(
            [dot.x for dot in alike],
            [dot.y for dot in alike],
            s=100 if is_own else 42,
            zorder=2 + is_own,
            alpha=0.4 if is_dominated and not is_own else 1.0,
            facecolors="none" if is_own and is_dominated else colour,
            edgecolors=colour if is_dominated else INK,
            linewidths=0 if not is_own else 2.6 if is_dominated else 1.1,
        )


def _scatter_legend(axes: Axes, chart: Scatter) -> None:
    front = Line2D([], [], color=MUTED, linestyle="--", linewidth=1)
    dots = [Line2D([], [], marker="o", linestyle="", color=light(entry.colour), markersize=7) for entry in chart.legend]
    texts = [*(plain(entry.text, 24) for entry in chart.legend), chart.front_text]
    legend(axes, [*dots, front], texts, columns=3)


def areas_picture(name: str, title: str, alt: str, charts: Sequence[tuple[str, StackedArea]]) -> Picture:
    """Draw area charts side by side, each below its title. Those with the same top share the axis of bytes."""
    is_shared = len({chart.top_bytes for _, chart in charts}) == 1
    entries = {
        layer.name: layer.colour for _, chart in charts for layer in reversed(chart.layers) if layer.name != LIVE
    }
    entries |= {phase.name: phase.shade for _, chart in charts for phase in chart.phases}

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, len(charts), sharey=is_shared, squeeze=False)[0]
        for axes, (text, chart) in zip(panels, charts, strict=True):
            _paint_area(axes, chart)
            axes.set_title(text, loc="left", fontweight="bold", fontsize=10)
        if entries:
            handles = [Patch(color=light(variable)) for variable in entries.values()]
            figure.legend(
                handles, [plain(name, 24) for name in entries], loc="outside lower left", ncols=5, fontsize="small"
            )

    return draw(name, title, alt, (WIDTH_INCH, 3.5), paint)


def _paint_area(axes: Axes, chart: StackedArea) -> None:
    for layer in chart.layers:
        axes.fill_between(chart.x, layer.edge, color=light(layer.colour), linewidth=0, step="post")
    for level in chart.levels:
        axes.axhline(level.position, color=INK, linewidth=0.9, linestyle=(0, (1, 2) if level.is_floor else (4, 3)))
        axes.annotate(level.text, (1, level.position), xytext=(-2, -2 if level.is_floor else 2), ha="right",
                      va="top" if level.is_floor else "bottom", textcoords="offset points", fontsize="small",
                      color=INK)  # fmt: skip
    ends = (*chart.x, 1.0)
    for phase in chart.phases:
        for start, end in phase.spans:
            axes.axvspan(ends[start], ends[end], ymin=0, ymax=0.03, color=light(phase.shade), linewidth=0, zorder=3)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=chart.x_label)
    _set_ticks(axes.xaxis, chart.x_ticks)
    _set_ticks(axes.yaxis, chart.ticks)
    axes.grid(axis="y", color=RULE)

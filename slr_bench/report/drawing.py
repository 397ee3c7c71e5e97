"""One drawing, three files: SVG and PNG for Markdown, and SVG whose colours follow the HTML page's theme.

matplotlib draws once with the light theme's colours; in the page's copy each colour becomes a CSS variable.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MultipleLocator, NullFormatter, NullLocator

from slr_bench.report.words import plain
from slr_bench.units import format_bytes

WIDTH_INCH: Final = 7.6
PALETTE: Final = {
    "ink": ("#1f2933", "#e6ebf0"),
    "muted": ("#5f6c7b", "#9aa7b5"),
    "rule": ("#d9dee4", "#313b46"),
    "warn": ("#b45309", "#f5b454"),
    "arm-0": ("#64748b", "#94a3b8"),
    "arm-1": ("#0d9488", "#2dd4bf"),
    "arm-2": ("#d97706", "#fbbf24"),
    "arm-3": ("#7c3aed", "#a78bfa"),
    "arm-4": ("#db2777", "#f472b6"),
    "arm-5": ("#2563eb", "#60a5fa"),
    "phase-0": ("#3b82f6", "#60a5fa"),
    "phase-1": ("#f59e0b", "#fcd34d"),
    "phase-2": ("#10b981", "#34d399"),
    "phase-3": ("#ef4444", "#f87171"),
    "phase-4": ("#8b5cf6", "#c4b5fd"),
    "phase-5": ("#9ca3af", "#d1d5db"),
}
"""CSS variable -> colour of the light and of the dark theme. Pictures are drawn in the light ones, all different."""
INK, MUTED, RULE, WARN = (PALETTE[name][0] for name in ("ink", "muted", "rule", "warn"))
ARM_COLOURS: Final = tuple(light for name, (light, _) in PALETTE.items() if name.startswith("arm"))
PHASE_COLOURS: Final = tuple(light for name, (light, _) in PALETTE.items() if name.startswith("phase"))

_STYLE: Final[Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and set in the page's font
    "svg.hashsalt": "slr-bench",  # the same drawing gives the same file
    "text.parse_math": False,  # an arm may be named $x
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
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
}


@dataclass(frozen=True)
class Picture:
    """A finished picture. ``svg`` and ``png`` stand alone; ``inline_svg`` is for the themed page."""

    name: str
    title: str
    alt: str
    svg: str
    inline_svg: str
    png: bytes


def arm_colour(place: int) -> str:
    """Colour of the n-th arm; they come round again after the last."""
    return ARM_COLOURS[place % len(ARM_COLOURS)]


def draw(
    name: str,
    title: str,
    alt: str,
    size_inch: tuple[float, float],
    paint: Callable[[Figure], Mapping[str, str]],
) -> Picture:
    """Run ``paint`` on an empty figure and save it. ``paint`` returns tooltips: artist gid -> text."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes in the PNG and correctly in the SVG.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size_inch)
        tooltips = paint(figure)
        text, image = io.StringIO(), io.BytesIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
        figure.savefig(image, format="png", dpi=144, facecolor="white")
    drawn = re.sub(r"\s*<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL)
    svg = _with_tooltips(drawn, tooltips)
    return Picture(name, title, alt, svg, _inline(svg, name, alt), image.getvalue())


def _with_tooltips(svg: str, tooltips: Mapping[str, str]) -> str:
    def add(match: re.Match[str]) -> str:
        tip = tooltips.get(match["gid"])
        return match[0] if tip is None else f"{match[0]}<title>{html.escape(plain(tip), quote=False)}</title>"

    return re.sub(r'<g id="(?P<gid>[^"]+)">', add, svg)


def _inline(svg: str, name: str, alt: str) -> str:
    """Themed, without XML prologue and fixed size, ids made unique in the page."""
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


def byte_axis(axis: Axis, values: Iterable[float], *, logarithmic: bool = False) -> None:
    """Ticks at powers of two (or multiples of one), written as ``64 MiB``."""
    largest = max(values, default=1.0) or 1.0
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_bytes(value)))
    if logarithmic:
        axis.set_major_locator(LogLocator(base=2))
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
    else:
        step = 1
        while step * 5 < largest:
            step *= 2
        axis.set_major_locator(MultipleLocator(step))


def short_bytes(value: float) -> str:
    """``'64 MiB'`` where ``format_bytes`` says ``'64.0 MiB'``: a tick's digits are known."""
    return re.sub(r"\.0+ ", " ", format_bytes(value))


def legend(axes: Axes, handles: Sequence[Any], labels: Sequence[str], columns: int = 4) -> None:
    """Key above the plot. A leading underscore, which matplotlib takes as "hide", is kept visible."""
    shown = [f"\u2009{text}" if text.startswith("_") else text for text in labels]
    axes.legend(handles, shown, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2)

"""One drawing, three files: SVG and PNG for Markdown, and SVG whose colours follow the HTML page's theme.

matplotlib draws once with the light theme's colours; in the page's copy each colour becomes a CSS variable.
"""

from __future__ import annotations

import base64
import html
import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MultipleLocator, NullFormatter, NullLocator

from slr_bench.report.charts.axes import byte_step, short_bytes
from slr_bench.report.charts.palette import PALETTE, arm_variable, light

WIDTH_INCH: Final = 7.6
INK, MUTED, RULE, WARN = map(light, ("ink", "muted", "rule", "warn"))

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
    "figure.constrained_layout.w_pad": 0.1,  # inch; laid out for the SVG, whose letters are a little narrower
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
    return light(arm_variable(place))


def draw(
    name: str,
    title: str,
    alt: str,
    size_inch: tuple[float, float],
    paint: Callable[[Figure], object],
) -> Picture:
    """Run ``paint`` on an empty figure and save it."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes in the PNG and correctly in the SVG.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size_inch)
        paint(figure)
        text, image = io.StringIO(), io.BytesIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
        figure.set_layout_engine("none")  # laid out once; a second time costs as much as drawing
        figure.savefig(image, format="png", dpi=144, facecolor="white")
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL)
    return Picture(name, title, alt, svg, _inline(svg, name, alt), image.getvalue())


def kept_picture(name: str, title: str, alt: str, svg: str, png: bytes) -> Picture:
    """One that was drawn before. The page takes the PNG: an SVG from a file may hold scripts."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return Picture(name, title, alt, svg, f'<img alt="{html.escape(alt, quote=True)}" src="{source}">', png)


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
        axis.set_major_locator(MultipleLocator(byte_step(largest)))


def legend(axes: Axes, handles: Sequence[Any], labels: Sequence[str], columns: int = 4) -> None:
    """Key above the plot. A leading underscore, which matplotlib takes as "hide", is kept visible."""
    shown = [f"\u2009{text}" if text.startswith("_") else text for text in labels]
    axes.legend(handles, shown, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2)

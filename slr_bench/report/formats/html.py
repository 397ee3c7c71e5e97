"""Renders a report as one self-contained HTML page, with its charts as SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from slr_bench.report.charts.palette import PALETTE, SHADES
from slr_bench.report.formats.table import Report, turned

if TYPE_CHECKING:
    from slr_bench.report.charts.matplotlib_renderer import Picture

HEIGHT: Final = 500
"""Height of an area chart in units of its paths; a tooltip reads values from them to 0.2 % of the top."""
STRIP_Y: Final = HEIGHT + 14
"""Position of the strip of phases, below the ground."""
SQUARE: Final = 1000
"""Width and height of a scatter chart in units of its paths."""
_LONG: Final = 28
"""Length in characters from which a word may be broken in a narrow column."""


def render(report: Report, pictures: Sequence[Picture] = ()) -> str:
    """Return the page. It needs no other file, no network and no JavaScript; text of the run is never taken as HTML."""
    environment = Environment(
        loader=PackageLoader("slr_bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawings = (area_path, strip_path, step_path, _breakable, _whole_words)
    environment.filters |= {function.__name__.lstrip("_"): function for function in drawings}
    # Only what this package wrote itself is trusted: style sheet, script, pictures (their text is escaped).
    style = environment.get_template("report.css.j2").render(palette=PALETTE, shades=SHADES, height=HEIGHT)
    script = (files("slr_bench.report") / "templates" / "report.js").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(
        report=report,
        headline=turned(report.headline),
        anchors=frozenset[str]().union(*(section.anchors for section in report.sections)),
        drawings=[(picture, Markup(picture.inline_svg)) for picture in pictures],
        style=Markup(style),
        script=Markup(script),
        height=HEIGHT,
        square=SQUARE,
    )


def area_path(edge: Iterable[float]) -> str:
    """Return the path of a layer, one unit per point, closed along the ground: ``M0 500v-180h3v-12h1V500z``."""
    heights = [max(0, round(HEIGHT * value)) for value in edge]
    parts, run = [f"M0 {HEIGHT}v-{heights[0]}"], 0
    for before, after in zip(heights, [*heights[1:], None], strict=True):
        run += 1
        if after != before:
            parts.append(f"h{run}" if after is None else f"h{run}v{before - after}")
            run = 0
    return "".join([*parts, f"V{HEIGHT}z"])


def strip_path(spans: Iterable[tuple[int, int]]) -> str:
    """Return the path of a phase: one horizontal line per stay."""
    return "".join(f"M{start} {STRIP_Y}h{end - start}" for start, end in spans)


def step_path(corners: Iterable[tuple[float, float]]) -> str:
    """Return a line in steps from corner to corner."""
    places = [(round(SQUARE * x), round(SQUARE * (1 - y))) for x, y in corners]
    return "".join(f"H{x}V{y}" if number else f"M{x} {y}" for number, (x, y) in enumerate(places))


def _whole_words(text: str) -> Markup:
    """Let only words that are too long for a column break, and only at their joints."""
    return Markup(" ").join(_breakable(word) if len(word) > _LONG else word for word in text.split(" "))


def _breakable(name: str) -> Markup:
    """Let a key or the path of a module break after a dot or an underscore."""
    return Markup("_<wbr>").join(Markup(".<wbr>").join(part.split(".")) for part in name.split("_"))

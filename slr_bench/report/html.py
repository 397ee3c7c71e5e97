"""A report as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from slr_bench.report.drawing import PALETTE, Picture
from slr_bench.report.table import Report


def render(report: Report, pictures: Sequence[Picture]) -> str:
    """The page: no file beside it, no network, readable without JavaScript, nothing of the run taken as HTML."""
    environment = Environment(
        loader=PackageLoader("slr_bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Only what this package wrote itself is trusted: its style sheet, its script, its drawings (their text is escaped).
    style = environment.get_template("report.css.j2").render(palette=PALETTE)
    script = environment.get_template("report.js").render()
    drawings = [(picture, Markup(picture.inline_svg)) for picture in pictures]
    return environment.get_template("report.html.j2").render(
        report=report, drawings=drawings, style=Markup(style), script=Markup(script)
    )

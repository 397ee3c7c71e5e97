"""A report as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from slr_bench.report.charts.matplotlib_canvas import Picture
from slr_bench.report.charts.palette import PALETTE
from slr_bench.report.formats.table import Report, turned
from slr_bench.report.run_report.cell_panels import Panels

_LONG: Final = 28
"""Characters of a word that a narrow column has no room for."""
_SCRIPTS: Final = ("theme.js", "tables.js", "cells.js", "tips.js")


def render(report: Report, pictures: Sequence[Picture] = ()) -> str:
    """The page: no file beside it, no network, readable without JavaScript, nothing of the run taken as HTML."""
    environment = Environment(
        loader=PackageLoader("slr_bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    environment.filters["whole_words"] = _whole_words
    # Only what this package wrote itself is trusted: style sheet, scripts, drawings (their text is escaped).
    style = environment.get_template("report.css.j2").render(palette=PALETTE)
    parts = "".join(environment.get_template(name).render() for name in _SCRIPTS)
    script = f'"use strict";\n(() => {{\n{parts}}})();'
    drawings = [(picture, Markup(picture.inline_svg)) for picture in pictures]
    charts = [chart for section in report.sections for chart in section.charts]
    anchors = {panel.ident for chart in charts if isinstance(chart, Panels) for panel in chart.panels}
    return environment.get_template("report.html.j2").render(
        report=report,
        headline=turned(report.headline),
        anchors=anchors,
        drawings=drawings,
        style=Markup(style),
        script=Markup(script),
    )


def _whole_words(text: str) -> Markup:
    """Words stay whole as long as they fit in a column; longer ones may break at their joints, not anywhere."""
    return Markup(" ").join(_breakable(word) if len(word) > _LONG else word for word in text.split(" "))


def _breakable(name: str) -> Markup:
    """A key or the path of a module may go on in the next line after a dot or an underscore."""
    return Markup("_<wbr>").join(Markup(".<wbr>").join(part.split(".")) for part in name.split("_"))

"""The profile as a page with pictures: live bytes by category over the step, and the peak by module."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from slr_bench.errors import ConfigError
from slr_bench.report.charts.matplotlib_renderer import (
    INK,
    MUTED,
    WIDTH_INCH,
    Picture,
    byte_axis,
    draw,
    legend,
)
from slr_bench.report.charts.palette import category_variable, light
from slr_bench.report.formats import html
from slr_bench.report.text.words import plain
from slr_bench.report.views.profile import profile_report
from slr_bench.units import format_bytes

MODULES_DRAWN: Final = 15


def write_page(found: Mapping[str, Any], directory: Path, command: str) -> Path:
    """Write ``profile.html``, ``profile.json`` and the pictures (SVG, PNG) into ``directory``; the page's path.

    Raises:
        ConfigError: it cannot be written there.
    """
    names = list(dict.fromkeys([*found["timeline"]["by_category"], *found["by_category"]]))
    colours = {name: light(category_variable(name)) for name in names}
    pictures = [_timeline(found, colours), _modules(found, colours)]
    page = directory / "profile.html"
    try:
        (directory / "figures").mkdir(parents=True, exist_ok=True)
        for picture in pictures:
            (directory / "figures" / f"{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
            (directory / "figures" / f"{picture.name}.png").write_bytes(picture.png)
        (directory / "profile.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        page.write_text(html.render(profile_report(found, command), pictures), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write into {directory}: {error.strerror}; choose another with --out") from error
    return page


def _timeline(found: Mapping[str, Any], colours: Mapping[str, str]) -> Picture:
    series = found["timeline"]["by_category"]
    floor, peak = found["floor_bytes"], found["peak_tensor_bytes"]
    count = len(found["timeline"]["phase"])
    x = [place / max(1, count - 1) for place in range(count)]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.stackplot(x, list(series.values()), colors=[colours[name] for name in series], linewidth=0, step="post")
        for value, text in ((peak, f"peak {format_bytes(peak)}"), (floor, f"operator floor {format_bytes(floor)}")):
            axes.axhline(value, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.annotate(text, (0.995, value), xytext=(0, 3), textcoords="offset points", ha="right", color=INK)
        _mark_phases(axes, found["timeline"]["phase"], x)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, peak * 1.12)
        axes.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        axes.set_xlabel("progress of the step, operator by operator")
        byte_axis(axes.yaxis, [peak])
        legend(axes, [Patch(color=colours[name]) for name in series], list(series), columns=4)

    alt = f"Stacked live bytes by category over one step; peak {format_bytes(peak)}, floor {format_bytes(floor)}."
    return draw("live-bytes", "Live bytes by category over the step", alt, (WIDTH_INCH, 3.9), paint)


def _mark_phases(axes: Any, phases: list[str], x: list[float]) -> None:
    """The name of a phase where a stretch of it is long enough to carry it."""
    start = 0
    for place in range(1, len(phases) + 1):
        if place < len(phases) and phases[place] == phases[start]:
            continue
        if phases[start] and x[place - 1] - x[start] > 0.07:
            middle = (x[start] + x[place - 1]) / 2
            axes.annotate(plain(phases[start], 16), (middle, 0), xytext=(0, 3), textcoords="offset points", ha="center",
                          color="white", fontsize="small")  # fmt: skip
        start = place


def _modules(found: Mapping[str, Any], colours: Mapping[str, str]) -> Picture:
    entries = found["by_module"][:MODULES_DRAWN]
    largest = max((entry["bytes"] for entry in entries), default=1)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for place, entry in enumerate(entries):
            left = 0
            for name in colours:
                size = entry["by_category"].get(name, 0)
                axes.barh(place, size, left=left, height=0.7, color=colours[name], linewidth=0)
                left += size
            axes.annotate(format_bytes(left), (left, place), xytext=(5, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(entries)), [plain(entry["module"], 40) for entry in entries])
        axes.set_ylim(len(entries) - 0.4, -0.6)
        axes.set_xlim(0, largest * 1.18)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.grid(axis="x")
        byte_axis(axes.xaxis, [largest])
        used = [name for name in colours if any(entry["by_category"].get(name) for entry in entries)]
        legend(axes, [Patch(color=colours[name]) for name in used], used, columns=4)
        axes.set_xlabel("bytes at the peak", color=MUTED)

    alt = "; ".join(f"{entry['module']} {format_bytes(entry['bytes'])}" for entry in entries[:5])
    title = "The peak by module"
    return draw("modules", title, f"Bars: {plain(alt, 400)}.", (WIDTH_INCH, 1.3 + 0.27 * len(entries)), paint)

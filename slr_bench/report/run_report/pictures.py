"""The pictures of a report: memory by cell here, the others beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slr_bench.compare.cells import CellSummary
from slr_bench.record import Outcome
from slr_bench.report.charts.matplotlib_canvas import (
    INK,
    MUTED,
    WARN,
    WIDTH_INCH,
    Picture,
    arm_colour,
    byte_axis,
    draw,
)
from slr_bench.report.run_report.content import RunContent
from slr_bench.report.run_report.pictures_over_time import memory_over_time
from slr_bench.report.run_report.scatter_figure import memory_against_time
from slr_bench.report.run_report.waterfall_figure import waterfall_picture
from slr_bench.report.text.cell_names import telling_axes
from slr_bench.report.text.setting import value_text
from slr_bench.report.text.words import OUTCOME_WORDS, plain
from slr_bench.units import format_bytes

MAX_BARS: Final = 32
"""Cells in the bar chart; own settings always, then in the grid's order. The table has all."""
LABEL: Final = 42
"""Characters of a bar's label."""
_ARM: Final = 14
"""Of them at least of the arm."""


def draw_pictures(content: RunContent) -> list[Picture]:
    """Every picture for which there is data."""
    made = [waterfall_picture(content.cells, content.ladder, content.workload)]
    made += [memory_by_cell(content), memory_against_time(content)]
    made += [memory_over_time(content, traced=True), memory_over_time(content, traced=False)]
    return [picture for picture in made if picture is not None]


def memory_by_cell(content: RunContent) -> Picture | None:
    """A bar a cell; own settings solid, the rest of the grid pale; a cell without memory says why."""
    shown = [cell for cell in content.cells if cell.entry.workload == content.workload and cell.records]
    cells = [cell for cell in shown if cell.entry.arm in content.arms]
    cells = sorted(cells, key=lambda cell: not cell.entry.is_own)[:MAX_BARS]
    values = {id(cell): cell.value("peak_tensor_bytes") for cell in cells}
    if not any(value is not None for value in values.values()):
        return None
    cells.sort(key=lambda cell: (content.arms.index(cell.entry.arm), not cell.entry.is_own, values[id(cell)] or 0))
    largest = max(value for value in values.values() if value is not None)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for place, cell in enumerate(cells):
            _paint_bar(axes, place, cell, values[id(cell)], content.arms.index(cell.entry.arm))
        keys = telling_axes(cells)
        names = (key.rsplit(".", 1)[-1] for key in keys)
        axes.set_title(plain(" · ".join(("arm", *names))), loc="left", fontsize="small", color=MUTED)
        axes.set_yticks(range(len(cells)), [_label(cell, keys) for cell in cells])
        for text, cell in zip(axes.get_yticklabels(), cells, strict=True):
            text.set_color(INK)
            text.set_fontweight("bold" if cell.entry.is_own else "normal")
        axes.set_xlim(0, largest * 1.16)
        axes.set_ylim(len(cells) - 0.4, -0.6)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.grid(axis="x")
        byte_axis(axes.xaxis, [largest])
        axes.set_xlabel("peak tensor memory of one steady step")

    parts = [f"{plain(cell.entry.arm, 40)} {format_bytes(values[id(cell)])}" for cell in cells if cell.entry.is_own]
    own = f" Own settings: {'; '.join(parts)}." if parts else ""
    alt = plain(f"Bar chart of peak tensor memory by cell.{own}", 600)
    return draw("memory", "Memory by cell", alt, (WIDTH_INCH, 1.15 + 0.29 * len(cells)), paint)


def _label(cell: CellSummary, keys: Sequence[str]) -> str:
    """Arm and values of the axes; where there is no room for both the arm is cut: the axes tell its cells apart."""
    axes = cell.entry.coordinates
    values = "".join(f" · {value_text(axes[key])}" for key in keys if key in axes)
    return plain(f"{plain(cell.entry.arm, max(_ARM, LABEL - len(values)))}{values}", LABEL)


def _paint_bar(axes: Axes, place: int, cell: CellSummary, value: float | None, arm: int) -> None:
    if value is None:
        failed = next((kind for kind in cell.outcomes if kind is not Outcome.OK), None)
        axes.annotate(
            OUTCOME_WORDS[failed] if failed else "not read",
            (0, place), xytext=(4, 0), textcoords="offset points", va="center", color=WARN, fontstyle="italic",
        )  # fmt: skip
        return
    axes.barh(place, value, height=0.68, color=arm_colour(arm), alpha=1.0 if cell.entry.is_own else 0.42, linewidth=0)
    axes.annotate(
        format_bytes(value), (value, place), xytext=(5, 0), textcoords="offset points", va="center", color=INK,
        fontweight="bold" if cell.entry.is_own else "normal",
    )  # fmt: skip

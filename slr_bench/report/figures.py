"""The pictures of a report: memory by cell, memory against time (`scatter`), memory over one step."""

from __future__ import annotations

from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from slr_bench.compare.summary import CellSummary, own_cell
from slr_bench.record import Outcome
from slr_bench.report.content import RunContent
from slr_bench.report.drawing import (
    INK,
    MUTED,
    PHASE_COLOURS,
    RULE,
    WARN,
    WIDTH_INCH,
    Picture,
    arm_colour,
    byte_axis,
    draw,
)
from slr_bench.report.scatter import memory_against_time
from slr_bench.report.setting import value_text
from slr_bench.report.timeline import Timeline, parse_samples, rss_timeline, traced_timeline
from slr_bench.report.waterfall_figure import waterfall_picture
from slr_bench.report.words import OUTCOME_WORDS, plain
from slr_bench.units import format_bytes

MAX_BARS: Final = 32
"""Cells in the bar chart; own settings always, then in the grid's order. The table has all."""
MAX_PANELS: Final = 6
"""Arms side by side in a picture over time; the first ones."""
LABEL: Final = 42
"""Characters of a bar's label."""


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
        labels = [
            plain(" · ".join((cell.entry.arm, *map(value_text, cell.entry.coordinates.values()))), LABEL)
            for cell in cells
        ]
        keys = dict.fromkeys(key.rsplit(".", 1)[-1] for cell in cells for key in cell.entry.coordinates)
        axes.set_title(plain(" · ".join(("arm", *keys))), loc="left", fontsize="small", color=MUTED)
        axes.set_yticks(range(len(cells)), labels)
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
    alt = plain(f"Bar chart of peak tensor memory by cell. Own settings: {'; '.join(parts)}.", 600)
    return draw("memory", "Memory by cell", alt, (WIDTH_INCH, 1.15 + 0.29 * len(cells)), paint)


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


def memory_over_time(content: RunContent, *, traced: bool) -> Picture | None:
    """One panel an arm's own setting, phases below: live tensor bytes over the traced step, or RAM over seconds."""
    lines: list[tuple[str, int, Timeline]] = []
    for place, arm in enumerate(content.arms[:MAX_PANELS]):
        cell = own_cell(content.cells, arm, content.workload)
        for record in cell.finished if cell else ():
            samples = parse_samples(content.directory.store.read_samples(record.name))
            line = None if samples is None else traced_timeline(samples) if traced else rss_timeline(samples)
            if line is not None:
                lines.append((arm, place, line))
                break
    if not lines:
        return None
    names = list(dict.fromkeys(name for _, _, line in lines for name, _, _ in line.stretches))
    colours = {name: PHASE_COLOURS[place % len(PHASE_COLOURS)] for place, name in enumerate(names)}

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, len(lines), sharey=True, squeeze=False)[0]
        for axes, (arm, place, line) in zip(panels, lines, strict=True):
            _paint_timeline(axes, line, arm_colour(place), colours)
            axes.set_title(plain(arm, 30), loc="left", fontweight="bold", fontsize=10)
            axes.set_xlabel("progress of the step, operator by operator" if traced else "seconds since the run began")
            if traced:
                axes.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        byte_axis(panels[0].yaxis, [max(line.y_bytes) for _, _, line in lines])
        keys = [Patch(color=colours[name]) for name in names]
        if keys:
            figure.legend(keys, [plain(name, 24) for name in names], loc="outside lower left", ncols=6)

    peaks = "; ".join(f"{plain(arm, 40)} {format_bytes(max(line.y_bytes))}" for arm, _, line in lines)
    what = "live tensor bytes over one traced step" if traced else "RAM of one process over its run"
    name, title = ("live-bytes", "Memory within one step") if traced else ("ram", "RAM over the run")
    alt = plain(f"Small multiples of {what}, one panel an arm. Highest: {peaks}.", 600)
    return draw(name, title, alt, (WIDTH_INCH, 3.3), paint)


def _paint_timeline(axes: Axes, line: Timeline, colour: str, colours: dict[str, str]) -> None:
    axes.fill_between(line.x, line.y_bytes, color=colour, alpha=0.22, linewidth=0)
    axes.plot(line.x, line.y_bytes, color=colour, linewidth=1.3)
    for name, start, end in line.stretches:
        axes.axvspan(start, end, ymin=0, ymax=0.035, color=colours[name], linewidth=0)
    axes.set_ylim(bottom=0)
    axes.set_xlim(line.x[0], line.x[-1])
    axes.grid(axis="y", color=RULE)

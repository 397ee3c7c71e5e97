"""The picture of the techniques: how tensor memory falls as they are added, and what each is worth among the others."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MultipleLocator

from slr_bench.compare.cells import CellSummary
from slr_bench.grid.techniques import AblationChain
from slr_bench.report.charts.matplotlib_canvas import INK, MUTED, WIDTH_INCH, Picture, byte_axis, draw
from slr_bench.report.charts.palette import light
from slr_bench.report.run_report.techniques import SAME_COLOURS, SAME_WORDS, START_COLOUR, Rung, rungs
from slr_bench.report.text.words import format_factor, plain
from slr_bench.units import format_bytes

COLOURS: Final = {same: light(variable) for same, variable in SAME_COLOURS.items()}
METRIC: Final = "peak_tensor_bytes"


def waterfall_picture(cells: Sequence[CellSummary], ladder: AblationChain | None, workload: str) -> Picture | None:
    """None without techniques, or where their memory was not measured."""
    if ladder is None:
        return None
    found = rungs(cells, ladder, workload)
    start = found[0].before.value(METRIC) if found and found[0].before else None
    if start is None or all(rung.saves is None for rung in found):
        return None

    def paint(figure: Figure) -> None:
        falls, worth = figure.subplots(1, 2, sharey=True, width_ratios=(2.4, 1))
        _paint_falls(falls, ladder.start, start, found)
        _paint_worth(worth, found)
        falls.set_yticks(range(len(found) + 1), [plain(name, 36) for name in (ladder.start, *ladder.techniques)])
        falls.set_ylim(len(found) + 0.6, -0.6)
        for text in falls.get_yticklabels():
            text.set_color(INK)
        keys = [Patch(color=colour) for colour in COLOURS.values()]
        figure.legend(keys, [SAME_WORDS[same] for same in COLOURS], loc="outside lower left", ncols=2)

    steps = "; ".join(f"{plain(rung.name, 40)} {_factor(rung.saves)}" for rung in found)
    alt = plain(f"Waterfall of peak tensor memory from {format_bytes(start)}. Saved by each technique: {steps}.", 600)
    return draw("waterfall", "What each technique buys", alt, (WIDTH_INCH, 1.5 + 0.34 * len(found)), paint)


def _paint_falls(axes: Axes, name: str, start: float, found: Sequence[Rung]) -> None:
    """Bars from the memory before a technique to that with it, on a logarithmic axis: equal lengths, equal factors."""
    values = [start]
    axes.barh(0, start, height=0.62, color=light(START_COLOUR), linewidth=0)
    _write(axes, start, 0, format_bytes(start))
    for place, rung in enumerate(found, start=1):
        after = rung.added.value(METRIC) if rung.added else None
        if after is None:
            _write(axes, values[-1], place, "not measured")
            continue
        low, high = sorted((after, values[-1]))
        axes.barh(place, high - low, left=low, height=0.62, color=COLOURS[rung.same], linewidth=0)
        axes.plot([values[-1]] * 2, [place - 0.69, place + 0.31], color=MUTED, linewidth=0.8)
        _write(axes, high, place, f"{format_bytes(after)}  {_factor(rung.saves)}")
        values.append(after)
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(values) / 1.25, max(values) * 5)
    byte_axis(axes.xaxis, values, logarithmic=True)
    axes.grid(axis="x")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_title("added one by one (logarithmic axis)", loc="left", fontsize="small", color=MUTED)


def _paint_worth(axes: Axes, found: Sequence[Rung]) -> None:
    """Memory without a technique over memory with all, in doublings."""
    doublings = [log2(rung.is_worth) if rung.is_worth else None for rung in found]
    for place, (rung, doubling) in enumerate(zip(found, doublings, strict=True), start=1):
        if doubling is not None:
            axes.barh(place, doubling, height=0.62, color=COLOURS[rung.same], linewidth=0)
        _write(axes, max(0.0, doubling or 0.0), place, _worth(rung.is_worth))
    known = [abs(doubling) for doubling in doublings if doubling is not None]
    widest = max(1.0, *known) if known else 1.0
    axes.set_xlim(min(0.0, *(doubling or 0.0 for doubling in doublings)), widest * 1.7)
    axes.xaxis.set_major_locator(MultipleLocator(1 if widest < 4 else 2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{2**value:g}×"))
    axes.grid(axis="x")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_title("left out: memory against all (log.)", loc="left", fontsize="small", color=MUTED)


def _write(axes: Axes, x: float, place: int, text: str) -> None:
    axes.annotate(text, (x, place), xytext=(5, 0), textcoords="offset points", va="center", color=INK)


def _factor(value: float | None) -> str:
    return "not measured" if value is None else "=" if value == 1 else f"÷ {format_factor(value)[:-1]}"


def _worth(value: float | None) -> str:
    return "not measured" if value is None else "=" if value == 1 else format_factor(value)

"""Writes the files of a report: the page, its Markdown twin, and the pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from slr_bench.compare.cells import CellSummary, own_cell
from slr_bench.errors import ConfigError, NothingMeasuredError
from slr_bench.files import replace_file
from slr_bench.grid.description import value_text
from slr_bench.record import Outcome
from slr_bench.report.charts.matplotlib_renderer import (
    Picture,
    areas_picture,
    bars_picture,
    kept_picture,
    scatter_picture,
)
from slr_bench.report.charts.memory import StackedArea, Timeline
from slr_bench.report.charts.model import Bar, BarChart, BarRow, Scale, arm_variable, byte_step
from slr_bench.report.formats.documents import render_html, render_markdown
from slr_bench.report.run_report.cell_panels import parse_samples, ram_chart, rss_timeline, step_chart, traced_timeline
from slr_bench.report.run_report.content import RunContent, read_content
from slr_bench.report.run_report.pareto import scatter
from slr_bench.report.run_report.techniques import ablation_steps, waterfall
from slr_bench.report.text.wording import OUTCOME_WORDS, distinguishing_axes
from slr_bench.units import format_bytes, plain

MAX_BARS: Final = 32
"""Number of cells in the bar chart: first own settings, then in the order of the grid. The table has all cells."""
LABEL: Final = 42
"""Length of a bar's label in characters."""
_ARM: Final = 14
"""Length that the arm's name keeps in a label."""
MAX_PANELS: Final = 4
"""Number of arms side by side in a picture over time: the first ones."""
SHARED: Final = 3
"""Largest ratio of peaks at which panels share an axis; beyond it the smaller ones would be flat lines."""


class OverTime(NamedTuple):
    """A picture over time: the name of its file, its title, and what it shows."""

    name: str
    title: str
    what: str


STEP: Final = OverTime("live-bytes", "Memory within one step", "live tensor bytes over one traced step")
RAM: Final = OverTime("ram", "RAM over the run", "RAM of one process over its run")


@dataclass(frozen=True)
class ReportPaths:
    """The files of a report."""

    html: Path
    markdown: Path
    figures: tuple[Path, ...]
    """Each picture as SVG and as PNG."""


def write_reports(run_dir: Path) -> ReportPaths:
    """Read ``run_dir`` and write its report, see :func:`write_content`."""
    return write_content(read_content(run_dir), run_dir)


def write_content(content: RunContent, run_dir: Path) -> ReportPaths:
    """Write ``report.html``, ``report.md`` and ``figures/`` into ``run_dir``.

    Raises:
        ConfigError: the directory cannot be written; or its ``grid.json`` is lost, and the files are written anyway.
        NothingMeasuredError: no run ended ok or out of memory; the files are written anyway.
    """
    figures = run_dir / "figures"
    pictures = draw_pictures(content)
    kept = _kept_pictures(figures, {picture.name for picture in pictures})
    pictures += kept
    files = tuple(figures / f"{picture.name}.{kind}" for picture in pictures for kind in ("svg", "png"))
    paths = ReportPaths(run_dir / "report.html", run_dir / "report.md", files)
    contents: list[str | bytes] = [part for picture in pictures for part in (picture.svg, picture.png)]
    contents += [render_markdown(content.report, pictures), render_html(content.report, kept)]
    path = figures
    try:
        figures.mkdir(exist_ok=True)
        for path, text in zip((*files, paths.markdown, paths.html), contents, strict=True):
            replace_file(path, text, durable=False)
    except OSError as error:
        raise ConfigError(
            f"cannot write the report: {path}: {error.strerror}; make the run directory writable, or copy it"
        ) from error
    if content.directory.fault:
        raise ConfigError(content.directory.fault)
    if not content.is_measured:
        raise NothingMeasuredError(f"nothing was measured: {_why_nothing(content)}; {paths.markdown} lists all runs")
    return paths


def _kept_pictures(figures: Path, drawn: Collection[str]) -> list[Picture]:
    """Return the pictures over time that can no longer be drawn, because their series (``samples/``) are gone."""
    found = []
    for name, title, what in (STEP, RAM):
        svg, png = figures / f"{name}.svg", figures / f"{name}.png"
        if name not in drawn and svg.is_file() and png.is_file():
            alt = f"{what[0].upper()}{what[1:]}, drawn when the series were still in samples/."
            found.append(kept_picture(name, title, alt, svg.read_text(encoding="utf-8"), png.read_bytes()))
    return found


def _why_nothing(content: RunContent) -> str:
    """Return the most frequent cause in one line."""
    found = content.directory
    ends = Counter(f"{record.outcome}: {record.reason}" for record in found.records)
    causes = ends or Counter(found.unreadable.values())
    if not causes:
        return f"{found.store.directory} has no record of a run"
    [(why, count)] = causes.most_common(1)
    if not ends:
        words = f"none of the {len(found.unreadable)} records in {found.store.directory} can be read"
        return f"{words} ({plain(why)}); measure it again with this version"
    others = f", and {ends.total() - count} others" if count < ends.total() else ""
    return f"no run in {found.store.directory} ended ok or out of memory ({count} as {plain(why)}{others})"


def draw_pictures(content: RunContent) -> list[Picture]:
    """Draw every picture for which there is data."""
    pictures = [waterfall_picture(content), memory_by_cell(content), memory_against_time(content)]
    pictures += [memory_over_time(content, STEP), memory_over_time(content, RAM)]
    return [picture for picture in pictures if picture is not None]


def waterfall_picture(content: RunContent) -> Picture | None:
    """Draw how tensor memory falls as techniques are added, and what each one is worth among the others."""
    if content.chain is None:
        return None
    chart = waterfall(ablation_steps(content.cells, content.chain, content.workload), content.chain)
    if chart is None:
        return None
    return bars_picture("waterfall", "What each technique buys", chart.alt, (chart.falls, chart.worths), (2.4, 1))


def memory_against_time(content: RunContent) -> Picture | None:
    """Draw a dot per cell."""
    if content.tradeoff is None:
        return None
    chart = scatter(content.tradeoff, content.arms)
    own = [dot.text for dot in chart.dots if dot.is_own]
    suffix = f" Own settings: {'; '.join(own)}." if own else ""
    count, time = len(chart.dots), content.tradeoff.time_text
    alt = plain(f"Scatter of peak memory against {time} for {count} cells.{suffix}", 600)
    return scatter_picture("memory-time", alt, chart)


def memory_by_cell(content: RunContent) -> Picture | None:
    """Draw a bar per cell: own settings solid, other cells pale. A cell without memory shows its outcome."""
    shown = [cell for cell in content.cells if cell.entry.workload == content.workload and cell.records]
    cells = [cell for cell in shown if cell.entry.arm in content.arms]
    cells = sorted(cells, key=lambda cell: not cell.entry.is_own)[:MAX_BARS]
    memories = [value for cell in cells if (value := cell.value("peak_tensor_bytes")) is not None]
    if not memories:
        return None
    places = {arm: place for place, arm in enumerate(content.arms)}
    cells.sort(key=lambda cell: (places[cell.entry.arm], not cell.entry.is_own, cell.value("peak_tensor_bytes") or 0))
    keys = distinguishing_axes(cells)
    scale = Scale(0, max(memories) or 1)
    chart = BarChart(
        title=plain(" · ".join(("arm", *(key.rsplit(".", 1)[-1] for key in keys)))),
        rows=tuple(_memory_row(cell, keys, scale, arm_variable(places[cell.entry.arm])) for cell in cells),
        ticks=scale.ticks(range(0, int(scale.high) + 1, byte_step(scale.high))),
        x_label="peak tensor memory of one steady step",
    )
    own = [f"{plain(cell.entry.arm, 40)} {row.text}" for cell, row in zip(cells, chart.rows, strict=True)
           if cell.entry.is_own]  # fmt: skip
    suffix = f" Own settings: {'; '.join(own)}." if own else ""
    return bars_picture(
        "memory", "Memory by cell", plain(f"Bar chart of peak tensor memory by cell.{suffix}", 600), [chart]
    )


def _memory_row(cell: CellSummary, keys: Sequence[str], scale: Scale, colour: str) -> BarRow:
    value = cell.value("peak_tensor_bytes")
    if value is None:
        failed = next((kind for kind in cell.outcomes if kind is not Outcome.OK), None)
        text = OUTCOME_WORDS[failed] if failed else "not read"
        return BarRow(_label(cell, keys), (), text, 0, cell.entry.is_own, is_warning=True)
    place = scale.position(value)
    return BarRow(_label(cell, keys), (Bar(0, place, colour),), format_bytes(value), place, cell.entry.is_own)


def _label(cell: CellSummary, keys: Sequence[str]) -> str:
    """Return the arm and the values of its axes. A long arm is cut, because the axes distinguish its cells."""
    axes = cell.entry.coordinates
    values = "".join(f" · {value_text(axes[key])}" for key in keys if key in axes)
    return plain(f"{plain(cell.entry.arm, max(_ARM, LABEL - len(values)))}{values}", LABEL)


def memory_over_time(content: RunContent, picture: OverTime) -> Picture | None:
    """Draw live tensor bytes over the traced step by category, or RAM over the run: one panel per arm."""
    lines = _lines(content, picture)
    if not lines:
        return None
    peaks = [max(line.y_bytes) for _, line in lines]
    top = max(peaks) if max(peaks) <= SHARED * min(peaks) else 0.0
    charts: list[tuple[str, StackedArea]] = []
    for cell, line in lines:
        colour = arm_variable(content.arms.index(cell.entry.arm))
        chart = step_chart(line, cell, top, colour) if picture is STEP else ram_chart(line, colour, top)
        charts.append((plain(cell.entry.arm, 24), chart))
    highest = "; ".join(
        f"{plain(cell.entry.arm, 40)} {format_bytes(peak)}" for (cell, _), peak in zip(lines, peaks, strict=True)
    )
    alt = plain(f"Small multiples of {picture.what}, one panel per arm. Highest: {highest}.", 600)
    return areas_picture(picture.name, picture.title, alt, charts)


def _lines(content: RunContent, picture: OverTime) -> list[tuple[CellSummary, Timeline]]:
    found = []
    for arm in content.arms[:MAX_PANELS]:
        cell = own_cell(content.cells, arm, content.workload)
        for record in cell.finished if cell else ():
            samples = parse_samples(content.directory.store.read_samples(record.name))
            line = samples and (traced_timeline(samples) if picture is STEP else rss_timeline(samples))
            if cell is not None and line:
                found.append((cell, line))
                break
    return found

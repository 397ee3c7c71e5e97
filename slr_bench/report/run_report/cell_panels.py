"""The panel of each cell: its memory over the step by category, and its peak by category and module."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from slr_bench.compare.cells import CellSummary
from slr_bench.report.charts.memory import (
    OUTSIDE,
    POINTS,
    StackedArea,
    Tile,
    Timeline,
    at_equal_distances,
    stacked_area,
    thinned,
    tiles,
)
from slr_bench.report.charts.model import ARMS, category_variable
from slr_bench.report.formats.documents import area_path, strip_path
from slr_bench.report.formats.table import Section
from slr_bench.report.run_report.sections import outcome_cell
from slr_bench.report.text.wording import anchor, distinguishing_labels, uncapitalized
from slr_bench.run.store import Store
from slr_bench.units import format_bytes, format_value, plain

FACTS: Final = {
    "floor_bytes": "floor",
    "peak_over_floor": "peak/floor",
    "step_time_s": "step",
    "peak_allocated_bytes": "allocated",
}
"""Metrics that every panel names, before the headline metrics of its workload."""


class Detail(NamedTuple):
    """The number of points and tiles with which a cell is drawn."""

    points: int
    tiles: int


DETAILS: Final = (Detail(240, 32), Detail(160, 24), Detail(100, 14), Detail(64, 9), Detail(40, 6), Detail(24, 4))
PAGE: Final = 900_000
"""Number of characters below which a page should stay. The finest detail that achieves this is used."""
_CELL: Final = 2_200
"""Approximate characters per cell in addition to its paths and tiles: rows of tables, a dot, the texts of its panel."""
_LEAST: Final = 8
"""Approximate characters per point of a timeline with two layers that change."""
_TILE: Final = 230
"""Approximate characters per tile."""


class Span(BaseModel):
    """One stay in a phase."""

    name: str
    start_s: float
    end_s: float


class Traced(BaseModel):
    """Live tensor bytes after each operator of one step, with the phase in which it ran."""

    live_bytes: list[int]
    phase: list[str]
    by_category: dict[str, list[int]] = {}
    """Bytes per category; they add up to ``live_bytes``. Empty in samples from before 2026-11-24."""
    by_module: dict[str, dict[str, int]] = {}
    """Module -> category -> bytes at the peak, largest first. Empty in samples from before 2026-11-24."""

    @model_validator(mode="after")
    def _same_length(self) -> Traced:
        for count in (len(self.phase), *map(len, self.by_category.values())):
            if len(self.live_bytes) != count:
                raise ValueError(f"{len(self.live_bytes)} bytes but {count} phases or bytes of a category")
        return self


class Samples(BaseModel):
    """The time series of a run, as the store keeps them."""

    model_config = ConfigDict(extra="ignore")

    columns: list[str] = []
    times_s: list[float] = []
    rows: list[list[float | None]] = []
    phases: list[Span] = []
    traced: Traced | None = None


class Part(NamedTuple):
    """A category at the peak."""

    name: str
    colour: str
    text: str


@dataclass(frozen=True)
class Panel:
    """The content of the page for one cell."""

    ident: str
    name: str
    workload: str
    summary: str
    """The peak, or the outcome."""
    is_peak: bool
    """True if the summary is the peak."""
    facts: tuple[tuple[str, str], ...]
    reason: str
    """Why the cell did not end ok, or why there is nothing to draw."""
    step: StackedArea | None
    ram: StackedArea | None
    parts: tuple[Part, ...]
    tiles: tuple[Tile, ...]
    peak_phase: str
    is_open: bool


@dataclass(frozen=True)
class Panels:
    """The panels of all cells. With JavaScript the page shows two of them, chosen from lists."""

    kind: ClassVar[str] = "panels"
    panels: tuple[Panel, ...]

    @property
    def phases(self) -> dict[str, str]:
        """Map each phase of the steps to its shade."""
        return {phase.name: phase.shade for one in self.panels if one.step for phase in one.step.phases}


def cells_section(cells: Sequence[CellSummary], shown: Sequence[CellSummary], store: Store) -> Section | None:
    """Return a panel per cell that left a record, or None for an empty run. The cells in ``shown`` are open."""
    found = panels(cells, shown, store)
    if not found.panels:
        return None
    text = (
        "The chart shows live tensor bytes over one steady step by category. The lines are the peak and the operator "
        "floor; the strip below the ground shows the phases. The tiles show the peak by module: areas are bytes."
    )
    anchors = frozenset(panel.ident for panel in found.panels)
    return Section("cells", "Inside a cell", (text,), (), (found,), anchors=anchors)


def panels(cells: Sequence[CellSummary], shown: Sequence[CellSummary], store: Store) -> Panels:
    """Return a panel per cell that left a record. Those in ``shown`` come first and also show RAM over the run."""
    sources: dict[str, tuple[CellSummary, Samples | None]] = {}
    for cell in cells:
        if cell.records and anchor(cell) not in sources:
            sources[anchor(cell)] = (cell, read_samples(cell, store))
    opened = {anchor(cell) for cell in shown}
    drawn = _drawn_within(sources, opened, PAGE - _CELL * len(sources))
    names = distinguishing_labels([cell for cell in cells if cell.records])
    found = [_panel(cell, names[key], drawn[key], key in opened) for key, (cell, _) in sources.items()]
    return Panels(tuple(sorted(found, key=lambda one: not one.is_open)))


def read_samples(cell: CellSummary, store: Store) -> Samples | None:
    """Return the samples of the first process with a traced step, else those of the first process with any."""
    first = None
    for record in cell.finished:
        samples = parse_samples(store.read_samples(record.name))
        if samples and samples.traced:
            return samples
        first = first or samples
    return first


def parse_samples(raw: Mapping[str, object] | None) -> Samples | None:
    """Return the samples, or None where there are none or another version wrote them: only a picture is lost."""
    try:
        return None if raw is None else Samples.model_validate(raw)
    except ValidationError:
        return None


def traced_timeline(samples: Samples, most: int = POINTS) -> Timeline | None:
    """Return live tensor bytes over the operators of the traced step; x runs from 0 to 1."""
    traced = samples.traced
    if traced is None or len(traced.live_bytes) < 2:
        return None
    last = len(traced.live_bytes) - 1
    x = [place / last for place in range(last + 1)]
    return thinned(x, traced.live_bytes, traced.phase, most, traced.by_category)


def rss_timeline(samples: Samples, most: int = POINTS) -> Timeline | None:
    """Return resident RAM over seconds."""
    if "rss_bytes" not in samples.columns:
        return None
    column = samples.columns.index("rss_bytes")
    rows = zip(samples.times_s, samples.rows, strict=False)
    points = [(time_s, row[column]) for time_s, row in rows if column < len(row) and isfinite(time_s)]
    known = [(time_s, value) for time_s, value in points if value is not None and isfinite(value)]
    if len(known) < 2:
        return None
    spans = sorted(samples.phases, key=lambda span: span.start_s)
    phase = [_phase_at(time_s, spans) for time_s, _ in known]
    return thinned([time_s for time_s, _ in known], [value for _, value in known], phase, most, {})


def _phase_at(time_s: float, spans: list[Span]) -> str:
    place = bisect_right(spans, time_s, key=lambda span: span.start_s) - 1
    return spans[place].name if place >= 0 and time_s <= spans[place].end_s else OUTSIDE


class Drawing(NamedTuple):
    """The charts of a cell; empty where it left no samples."""

    line: Timeline | None = None
    step: StackedArea | None = None
    ram: StackedArea | None = None
    tiles: tuple[Tile, ...] = ()


def _drawn_within(
    sources: Mapping[str, tuple[CellSummary, Samples | None]], opened: set[str], room: int
) -> dict[str, Drawing]:
    """Draw all cells with the finest detail whose characters stay within the room."""
    traced = sum(samples is not None and samples.traced is not None for _, samples in sources.values())
    drawn: dict[str, Drawing] = {}
    for detail in DETAILS:
        if detail is not DETAILS[-1] and _LEAST * detail.points * traced > room:
            continue
        drawn = {key: _drawing(cell, samples, detail, key in opened) for key, (cell, samples) in sources.items()}
        if sum(map(_characters, drawn.values())) <= room:
            break
    return drawn


def _drawing(cell: CellSummary, samples: Samples | None, detail: Detail, is_open: bool) -> Drawing:
    if samples is None:
        return Drawing()
    line = traced_timeline(samples, detail.points)
    ram = rss_timeline(samples, detail.points) if is_open else None
    return Drawing(
        line,
        step_chart(line, cell) if line else None,
        ram_chart(at_equal_distances(ram, detail.points), ARMS[0]) if ram else None,
        tiles(samples.traced.by_module if samples.traced else {}, detail.tiles),
    )


def step_chart(line: Timeline, cell: CellSummary, top_bytes: float = 0, colour: str = ARMS[1]) -> StackedArea:
    """Lay out live tensor bytes over one step, with the operator floor of the cell."""
    return stacked_area(line, "operators of the step", ("start", "end"), cell.value("floor_bytes"), colour, top_bytes)


def ram_chart(line: Timeline, colour: str, top_bytes: float = 0) -> StackedArea:
    """Lay out resident RAM over the run."""
    limits = (f"{line.x[0]:.1f} s", f"{line.x[-1]:.1f} s")
    return stacked_area(line, "seconds since the start of the run", limits, None, colour, top_bytes)


def _characters(drawing: Drawing) -> int:
    charts = [chart for chart in (drawing.step, drawing.ram) if chart]
    paths = [area_path(layer.edge) for chart in charts for layer in chart.layers]
    paths += [strip_path(phase.spans) for chart in charts for phase in chart.phases]
    return sum(map(len, paths)) + _TILE * len(drawing.tiles)


def _panel(cell: CellSummary, name: str, drawing: Drawing, is_open: bool) -> Panel:
    peak, line = cell.value("peak_tensor_bytes"), drawing.line
    return Panel(
        ident=anchor(cell),
        name=name,
        workload=plain(cell.entry.workload, 40),
        summary=outcome_cell(cell).text if peak is None else format_bytes(peak),
        is_peak=peak is not None,
        facts=_facts(cell),
        reason=plain("; ".join(cell.reasons)) or ("" if drawing.step or drawing.ram else _why_empty(cell)),
        step=drawing.step,
        ram=drawing.ram,
        parts=_parts(line) if line else (),
        tiles=drawing.tiles,
        peak_phase=plain(line.phase[line.peak], 24) if line else "",
        is_open=is_open,
    )


def _why_empty(cell: CellSummary) -> str:
    if cell.value("peak_tensor_bytes") is None:
        return "No step of this cell was traced."
    return "The series over the step is missing or not readable (samples/)."


def _facts(cell: CellSummary) -> tuple[tuple[str, str], ...]:
    own = {item.metric: uncapitalized(item.title) for item in cell.description.headline_of(cell.entry.workload)}
    names = FACTS | {metric: title for metric, title in own.items() if metric not in FACTS}
    return tuple(
        (text, format_value(reading.value, reading.unit))
        for name, text in names.items()
        if name != "peak_tensor_bytes" and (reading := cell.readings.get(name)) and reading.value is not None
    )


def _parts(line: Timeline) -> tuple[Part, ...]:
    values = {name: series[line.peak] for name, series in line.series.items() if series[line.peak]}
    ordered = sorted(values, key=lambda name: -values[name])
    return tuple(Part(plain(name, 30), category_variable(name), format_bytes(values[name])) for name in ordered)

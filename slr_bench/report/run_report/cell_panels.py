"""A cell opened: its memory over the step by category, and what is alive at the peak by category and module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

from slr_bench.compare.cells import CellSummary
from slr_bench.report.charts.area import Area, area
from slr_bench.report.charts.palette import ARMS, category_variable
from slr_bench.report.charts.timeline import Samples, Timeline, parse_samples, rss_timeline, traced_timeline
from slr_bench.report.charts.treemap import Tile, tiles
from slr_bench.report.run_report.sections import outcome_cell
from slr_bench.report.text.cell_names import anchor, telling_names
from slr_bench.report.text.words import format_value, plain
from slr_bench.run.store import Store
from slr_bench.units import format_bytes

FACTS: Final = {
    "floor_bytes": "floor",
    "peak_over_floor": "peak/floor",
    "step_time_s": "step",
    "peak_allocated_bytes": "allocated",
    "training_time_s": "training",
    "accuracy_top1": "accuracy",
}


class Detail(NamedTuple):
    """How finely the cells are drawn: of many more coarsely, so that the page stays small."""

    points: int
    tiles: int


DETAILS: Final = (Detail(240, 32), Detail(160, 24), Detail(100, 14), Detail(64, 9), Detail(40, 6), Detail(24, 4))
PAGE: Final = 900_000
"""Characters that a page should stay below; the finest detail that keeps it there is taken."""
_CELL: Final = 2_200
"""Of a cell beside its paths and tiles, about: rows of tables, a dot, what its panel says."""
_LEAST: Final = 8
"""Of a point of a timeline with two layers that change."""
_TILE: Final = 230
"""Of a tile, about."""


class Part(NamedTuple):
    """A category at the peak."""

    name: str
    colour: str
    text: str


@dataclass(frozen=True)
class Panel:
    """One cell."""

    ident: str
    name: str
    workload: str
    summary: str
    """Peak, or how it ended."""
    is_peak: bool
    """Which of the two."""
    facts: tuple[tuple[str, str], ...]
    reason: str
    """Why it did not end ok, or why there is nothing to draw."""
    step: Area | None
    ram: Area | None
    parts: tuple[Part, ...]
    tiles: tuple[Tile, ...]
    peak_phase: str
    is_open: bool


@dataclass(frozen=True)
class Panels:
    """All cells, of which the page shows the one that is asked for."""

    kind: ClassVar[str] = "panels"
    panels: tuple[Panel, ...]

    @property
    def phases(self) -> dict[str, str]:
        """Every phase of the steps -> its shade."""
        return {phase.name: phase.shade for one in self.panels if one.step for phase in one.step.phases}


def panels(cells: Sequence[CellSummary], shown: Sequence[CellSummary], store: Store) -> Panels:
    """A panel a cell that left a record. ``shown`` are open and first; their RAM over the run is drawn too."""
    sources: dict[str, tuple[CellSummary, Samples | None]] = {}
    for cell in cells:
        if cell.records and anchor(cell) not in sources:
            sources[anchor(cell)] = (cell, _samples(cell, store))
    opened = {anchor(cell) for cell in shown}
    room = PAGE - _CELL * len(sources)
    traced = sum(samples is not None and samples.traced is not None for _, samples in sources.values())
    for detail in DETAILS:
        if detail is not DETAILS[-1] and _LEAST * detail.points * traced > room:
            continue
        drawn = {key: _drawn(*source, detail, key in opened) for key, source in sources.items()}
        if sum(map(_weight, drawn.values())) <= room:
            break
    names = telling_names([cell for cell in cells if cell.records])
    made = [_panel(cell, names[key], drawn[key], key in opened) for key, (cell, _) in sources.items()]
    return Panels(tuple(sorted(made, key=lambda one: not one.is_open)))


class Drawn(NamedTuple):
    """What is drawn of a cell; nothing where it left no samples."""

    line: Timeline | None
    step: Area | None
    ram: Area | None
    tiles: tuple[Tile, ...]


def _drawn(cell: CellSummary, samples: Samples | None, detail: Detail, is_open: bool) -> Drawn:
    if samples is None:
        return Drawn(None, None, None, ())
    line = traced_timeline(samples, detail.points)
    ram = rss_timeline(samples, detail.points) if is_open else None
    return Drawn(
        line,
        area(line, "the step by operators", ("start", "end"), cell.value("floor_bytes"), ARMS[1]) if line else None,
        area(ram, "seconds since the run began", _seconds(ram), None, ARMS[0]) if ram else None,
        tiles(samples.traced.by_module if samples.traced else {}, detail.tiles),
    )


def _weight(drawn: Drawn) -> int:
    areas = [one for one in (drawn.step, drawn.ram) if one]
    paths = [path for one in areas for path in one.paths]
    return sum(map(len, paths)) + _TILE * len(drawn.tiles)


def _panel(cell: CellSummary, name: str, drawn: Drawn, is_open: bool) -> Panel:
    peak, line = cell.value("peak_tensor_bytes"), drawn.line
    return Panel(
        ident=anchor(cell),
        name=name,
        workload=plain(cell.entry.workload, 40),
        summary=outcome_cell(cell).text if peak is None else format_bytes(peak),
        is_peak=peak is not None,
        facts=_facts(cell),
        reason=plain("; ".join(cell.reasons)) or ("" if drawn.step or drawn.ram else _why_empty(cell)),
        step=drawn.step,
        ram=drawn.ram,
        parts=_parts(line) if line else (),
        tiles=drawn.tiles,
        peak_phase=plain(line.phase[line.y_bytes.index(max(line.y_bytes))], 24) if line else "",
        is_open=is_open,
    )


def _seconds(line: Timeline) -> tuple[str, str]:
    return f"{line.x[0]:.1f} s", f"{line.x[-1]:.1f} s"


def _samples(cell: CellSummary, store: Store) -> Samples | None:
    """Those of the first process that has a traced step, else of the first that has any."""
    first = None
    for record in cell.finished:
        samples = parse_samples(store.read_samples(record.name))
        if samples and samples.traced:
            return samples
        first = first or samples
    return first


def _why_empty(cell: CellSummary) -> str:
    if cell.value("peak_tensor_bytes") is None:
        return "No step of it was traced."
    return "Its series over the step is missing or not readable (samples/)."


def _facts(cell: CellSummary) -> tuple[tuple[str, str], ...]:
    return tuple(
        (text, format_value(reading.value, reading.unit))
        for name, text in FACTS.items()
        if (reading := cell.readings.get(name)) and reading.value is not None
    )


def _parts(line: Timeline) -> tuple[Part, ...]:
    where = line.y_bytes.index(max(line.y_bytes))
    values = {name: series[where] for name, series in line.series.items() if series[where]}
    ordered = sorted(values, key=lambda name: -values[name])
    return tuple(Part(plain(name, 30), category_variable(name), format_bytes(values[name])) for name in ordered)

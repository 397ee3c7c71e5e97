"""Memory over one step or over a run: read from a run's samples, thinned, and laid out as a stacked area chart."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import isfinite
from typing import Final, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from slr_bench.report.charts.model import Tick, byte_ticks
from slr_bench.report.charts.palette import category_variable, phase_shade
from slr_bench.units import format_bytes, plain

POINTS: Final = 300
"""Points to which a line is thinned. Each stretch keeps its largest value, so that the peak stays."""
OUTSIDE: Final = "outside"
"""The tracer's name for the time between phases."""
HEADROOM: Final = 1.14
"""Top of the axis over the peak."""
LIVE: Final = "live bytes"
"""Name of the only layer where the categories are not known."""


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


@dataclass(frozen=True)
class Timeline:
    """One line: ``y_bytes[i]`` at ``x[i]`` during ``phase[i]``."""

    x: tuple[float, ...]
    y_bytes: tuple[float, ...]
    phase: tuple[str, ...]
    series: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Bytes per category; they add up to ``y_bytes``. Empty where the categories are not known."""

    @property
    def peak(self) -> int:
        """Index of the highest point."""
        return self.y_bytes.index(max(self.y_bytes))

    @property
    def stretches(self) -> list[tuple[str, int, int]]:
        """Every stay in a phase: its name, its first point, and the point behind its last one."""
        found, start = [], 0
        for place in range(1, len(self.phase) + 1):
            if place < len(self.phase) and self.phase[place] == self.phase[start]:
                continue
            if self.phase[start] not in ("", OUTSIDE):
                found.append((self.phase[start], start, place))
            start = place
        return found


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
    return _thin(x, traced.live_bytes, traced.phase, most, traced.by_category)


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
    return _thin([time_s for time_s, _ in known], [value for _, value in known], phase, most, {})


def _phase_at(time_s: float, spans: list[Span]) -> str:
    place = bisect_right(spans, time_s, key=lambda span: span.start_s) - 1
    return spans[place].name if place >= 0 and time_s <= spans[place].end_s else OUTSIDE


def _thin(
    x: Sequence[float], y: Sequence[float], phase: Sequence[str], most: int, series: Mapping[str, Sequence[float]]
) -> Timeline:
    stride = max(1, -(-len(x) // most))
    peaks = [max(range(start, min(start + stride, len(x))), key=y.__getitem__) for start in range(0, len(x), stride)]

    def kept(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(values[place] for place in peaks)

    parts = {name: kept(values) for name, values in series.items()}
    return Timeline(kept(x), kept(y), tuple(phase[place] for place in peaks), parts)


class Layer(NamedTuple):
    """A category together with all categories below it: the area below ``edge``."""

    name: str
    colour: str
    edge: tuple[float, ...]
    """Height at each point."""


class PhaseStrip(NamedTuple):
    """The stays in a phase, each from its first point to the point behind its last one."""

    name: str
    shade: str
    spans: tuple[tuple[int, int], ...]


class Level(NamedTuple):
    """A horizontal line with its name."""

    text: str
    place: float
    is_floor: bool


@dataclass(frozen=True)
class StackedArea:
    """Bytes over time as stacked layers. The highest layer comes first: each one is painted over the one before."""

    x: tuple[float, ...]
    """Position of each point. The page draws points at equal distances."""
    layers: tuple[Layer, ...]
    top_bytes: int
    ticks: tuple[Tick, ...]
    levels: tuple[Level, ...]
    peak_x: float
    peak_y: float
    phases: tuple[PhaseStrip, ...]
    x_label: str
    x_ticks: tuple[Tick, ...]

    @property
    def count(self) -> int:
        """Number of points."""
        return len(self.x)


def stacked_area(
    line: Timeline, x_label: str, limits: tuple[str, str], floor_bytes: float | None, colour: str, top_bytes: float = 0
) -> StackedArea:
    """Lay out a timeline.

    ``limits`` are the texts at both ends of the x-axis. A line without categories has the given ``colour``.
    ``top_bytes`` raises the top of the axis, for charts that share it.
    """
    peak = max(line.y_bytes)
    top = max(top_bytes, peak, floor_bytes or 0, 1) * HEADROOM
    levels = [Level(f"peak {format_bytes(peak)}", peak / top, False)]
    levels += [Level(f"floor {format_bytes(floor_bytes)}", floor_bytes / top, True)] if floor_bytes else []
    width = line.x[-1] - line.x[0]
    return StackedArea(
        x=tuple((value - line.x[0]) / width if width > 0 else 0.0 for value in line.x),
        layers=_layers(line, top, colour),
        top_bytes=round(top),
        ticks=byte_ticks(top),
        levels=tuple(levels),
        peak_x=(line.peak + 0.5) / len(line.y_bytes),
        peak_y=peak / top,
        phases=_strips(line),
        x_label=x_label,
        x_ticks=(Tick(limits[0], 0.0), Tick(limits[1], 1.0)),
    )


def _layers(line: Timeline, top: float, colour: str) -> tuple[Layer, ...]:
    if not line.series:
        return (Layer(LIVE, colour, tuple(value / top for value in line.y_bytes)),)
    edges = accumulate(line.series.values(), lambda below, own: tuple(a + b for a, b in zip(below, own, strict=True)))
    layers = [
        Layer(plain(name, 30), category_variable(name), tuple(value / top for value in edge))
        for name, edge in zip(line.series, edges, strict=True)
    ]
    return tuple(reversed(layers))


def _strips(line: Timeline) -> tuple[PhaseStrip, ...]:
    spans: dict[str, list[tuple[int, int]]] = {}
    for name, start, end in line.stretches:
        spans.setdefault(name, []).append((start, end))
    return tuple(PhaseStrip(plain(name, 24), phase_shade(name), tuple(own)) for name, own in spans.items())

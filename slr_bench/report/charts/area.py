"""Live bytes over a step, or RAM over a run, as layers of SVG paths: small enough for hundreds on a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, NamedTuple

from slr_bench.report.charts.axes import Tick, byte_ticks
from slr_bench.report.charts.palette import category_variable, phase_shade
from slr_bench.report.charts.timeline import OUTSIDE, Timeline
from slr_bench.report.text.words import plain
from slr_bench.units import format_bytes

HEIGHT: Final = 500
"""Units of a path from 0 to the axis' top: 0.2 % of it is what a tooltip can tell apart."""
STRIP_Y: Final = HEIGHT + 14
"""Middle of the strip of phases, below the ground."""
HEADROOM: Final = 1.14
LIVE: Final = "live bytes"
"""Name of the one layer where the categories are not known."""


class Layer(NamedTuple):
    """A category and all those under it: the area below its upper edge."""

    name: str
    colour: str
    path: str


class Strip(NamedTuple):
    """When a phase was under way: a path of lines along x."""

    name: str
    shade: str
    path: str


class Mark(NamedTuple):
    """A level with its name."""

    text: str
    place: float
    is_floor: bool


@dataclass(frozen=True)
class Area:
    """A stacked area, the layer that reaches highest first: each is painted over the one before."""

    count: int
    """Units of the paths along x: one a point."""
    layers: tuple[Layer, ...]
    top_bytes: int
    ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    peak_x: float
    peak_y: float
    phases: tuple[Strip, ...]
    x_label: str
    x_start: str
    x_end: str

    @property
    def paths(self) -> list[str]:
        """Every path of it."""
        return [*(layer.path for layer in self.layers), *(strip.path for strip in self.phases)]


def area(line: Timeline, x_label: str, limits: tuple[str, str], floor_bytes: float | None, colour: str) -> Area:
    """Lay out a timeline. ``colour`` is that of the only layer where it has no categories."""
    peak = max(line.y_bytes)
    top = max(peak, floor_bytes or 0, 1) * HEADROOM
    where = line.y_bytes.index(peak)
    marks = [Mark(f"peak {format_bytes(peak)}", peak / top, False)]
    marks += [Mark(f"floor {format_bytes(floor_bytes)}", floor_bytes / top, True)] if floor_bytes else []
    return Area(
        count=len(line.y_bytes),
        layers=_layers(line, top, colour),
        top_bytes=round(top),
        ticks=byte_ticks(top),
        marks=tuple(marks),
        peak_x=(where + 0.5) / len(line.y_bytes),
        peak_y=peak / top,
        phases=_strips(line),
        x_label=x_label,
        x_start=limits[0],
        x_end=limits[1],
    )


def _layers(line: Timeline, top: float, colour: str) -> tuple[Layer, ...]:
    if not line.series:
        return (Layer(LIVE, colour, _path(line.y_bytes, top)),)
    edges = list(accumulate(line.series.values(), _on_top))
    made = [
        Layer(plain(name, 30), category_variable(name), _path(edge, top))
        for name, edge in zip(line.series, edges, strict=True)
    ]
    return tuple(reversed(made))


def _on_top(below: tuple[float, ...], own: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(one + other for one, other in zip(below, own, strict=True))


def _path(edge: Sequence[float], top: float) -> str:
    """Steps of one unit a point, runs of equal height joined: ``M0 500V320h3v-12h1…``, closed along the ground."""
    heights = [max(0, round(HEIGHT * value / top)) for value in edge]
    parts, run = [f"M0 {HEIGHT}v-{heights[0]}"], 0
    for before, after in zip(heights, [*heights[1:], None], strict=True):
        run += 1
        if after != before:
            parts.append(f"h{run}" if after is None else f"h{run}v{before - after}")
            run = 0
    return "".join([*parts, f"V{HEIGHT}z"])


def _strips(line: Timeline) -> tuple[Strip, ...]:
    """One path a phase, in the units of the layers."""
    lines: dict[str, list[str]] = {}
    start = 0
    for place in range(1, len(line.phase) + 1):
        if place < len(line.phase) and line.phase[place] == line.phase[start]:
            continue
        if line.phase[start] not in ("", OUTSIDE):
            lines.setdefault(line.phase[start], []).append(f"M{start} {STRIP_Y}h{place - start}")
        start = place
    return tuple(Strip(plain(name, 24), phase_shade(name), "".join(parts)) for name, parts in lines.items())

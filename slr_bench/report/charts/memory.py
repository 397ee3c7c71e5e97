"""Charts of memory: bytes over time as stacked areas, and the peak by module as a treemap.

The tiles of a treemap are squarified (Bruls, Huizing and van Wijk, 2000).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, takewhile
from typing import Final, NamedTuple

from slr_bench.report.charts.model import Bar, Tick, byte_ticks, category_variable, phase_shade
from slr_bench.units import format_bytes, plain

POINTS: Final = 300
"""Points to which a line is thinned. Each stretch keeps its largest value, so that the peak stays."""
OUTSIDE: Final = "outside"
"""The tracer's name for the time between phases."""
HEADROOM: Final = 1.14
"""Top of the axis over the peak."""
LIVE: Final = "live bytes"
"""Name of the only layer where the categories are not known."""
ASPECT: Final = 1.7
"""Width of the treemap over its height, on a desktop."""
LEAST_SHARE: Final = 0.008
"""Share of the peak below which modules are put together into one tile."""
LEAST_SLICE: Final = 0.12
"""Share of a module below which a category is counted to the module's largest one."""


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


def thinned(
    x: Sequence[float], y: Sequence[float], phase: Sequence[str], most: int, series: Mapping[str, Sequence[float]]
) -> Timeline:
    """Return at most ``most`` points of a timeline: the highest of each stretch, so that the peak is kept."""
    stride = max(1, -(-len(x) // most))
    peaks = [max(range(start, min(start + stride, len(x))), key=y.__getitem__) for start in range(0, len(x), stride)]

    def kept(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(values[place] for place in peaks)

    parts = {name: kept(values) for name, values in series.items()}
    return Timeline(kept(x), kept(y), tuple(phase[place] for place in peaks), parts)


def at_equal_distances(line: Timeline, count: int) -> Timeline:
    """Return a line of one layer with ``count`` points at equal distances, as the page draws them.

    Each point is the largest value of its stretch. A stretch without a value continues the last one before it.
    """
    first, width = line.x[0], line.x[-1] - line.x[0]
    if width <= 0 or count < 2:
        return line
    stretches: list[list[int]] = [[] for _ in range(count)]
    for index, x in enumerate(line.x):
        stretches[min(count - 1, int((x - first) / width * count))].append(index)
    indices, last = list[int](), 0
    for stretch in stretches:
        indices.append(max(stretch, key=line.y_bytes.__getitem__, default=last))
        last = max(stretch, default=last)
    return Timeline(
        tuple(first + width * place / (count - 1) for place in range(count)),
        tuple(line.y_bytes[index] for index in indices),
        tuple(line.phase[index] for index in indices),
    )


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
    position: float
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


class Box(NamedTuple):
    """A rectangle in the unit square; ``top`` is the distance from the upper edge."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """The right edge, at most 1 in spite of rounding."""
        return min(1.0, self.left + self.width)

    @property
    def bottom(self) -> float:
        """The lower edge, at most 1 in spite of rounding."""
        return min(1.0, self.top + self.height)


class Tile(NamedTuple):
    """A module at the peak."""

    name: str
    label: str
    """The shortest name that distinguishes it, to be written into the tile."""
    text: str
    box: Box
    slices: tuple[Bar, ...]
    """Its categories along the longer side, the largest one first."""
    is_wide: bool


def tiles(modules: Mapping[str, Mapping[str, int]], most: int) -> tuple[Tile, ...]:
    """Return at most ``most`` tiles, one per module; the last one holds all small modules together."""
    sizes = {name: sum(parts.values()) for name, parts in modules.items()}
    total = sum(sizes.values())
    ordered = sorted((name for name in sizes if sizes[name] > 0), key=lambda name: -sizes[name])
    large = [name for name in ordered[: most - 1] if sizes[name] >= LEAST_SHARE * total]
    rest = ordered[len(large) :]
    kinds = {name: Counter(modules[name]) for name in large}
    if rest:
        others = rest[0] if len(rest) == 1 else f"{len(rest)} more modules"
        kinds[others] = sum((Counter(modules[name]) for name in rest), Counter())
    shown = sorted(kinds, key=lambda name: -kinds[name].total())
    boxes = squarified([kinds[name].total() for name in shown], ASPECT)
    labels = short_names(shown)
    return tuple(_tile(name, labels[name], kinds[name], box) for name, box in zip(shown, boxes, strict=True))


def _tile(name: str, label: str, parts: Counter[str], box: Box) -> Tile:
    is_wide = box.width * ASPECT >= box.height
    return Tile(plain(name, 60), plain(label, 40), format_bytes(parts.total()), box, _slices(parts), is_wide)


def _slices(parts: Counter[str]) -> tuple[Bar, ...]:
    ordered = sorted(parts, key=lambda name: -parts[name])
    large = [name for name in ordered if parts[name] >= LEAST_SLICE * parts.total()]
    if not large:
        return (Bar(0.0, 1.0, category_variable(ordered[0])),)
    scale = sum(parts[name] for name in large)
    slices, start = [], 0.0
    for name in large:
        end = start + parts[name] / scale
        slices.append(Bar(start, end, category_variable(name)))
        start = end
    return tuple(slices)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return the last two parts of each path, without the beginning that all paths share.

    ``backbone.layer4.0.conv2`` becomes ``layer4.0.conv2``: a number stays with the part before it.
    """
    parts = {name: re.split(r"\.(?!\d+(?:\.|$))", name) for name in names}
    paths = [found[:-1] for found in parts.values() if len(found) > 1]
    shared = takewhile(lambda level: len(set(level)) == 1, zip(*paths, strict=False))
    common = len(list(shared)) if len(paths) > 1 else 0
    return {name: ".".join(found[common if len(found) > 1 else 0 :][-2:]) for name, found in parts.items()}


def squarified(sizes: Sequence[float], aspect: float = 1.5) -> list[Box]:
    """Return a box per size, in the given order (largest first), that together fill the unit square.

    The square is shown ``aspect`` times as wide as high. A row of boxes takes another size as long as that makes its
    least square box more square.

    Raises:
        ValueError: a size is not above 0.
    """
    if any(size <= 0 for size in sizes):
        raise ValueError(f"a box needs a size above 0, got {min(sizes)}; leave it out")
    total, boxes = sum(sizes), list[Box]()
    left, top, width, height = 0.0, 0.0, aspect, 1.0
    areas = [size / total * aspect for size in sizes]
    while areas:
        is_wide = width >= height
        side = height if is_wide else width
        count = _row_length(areas, side)
        row, areas = areas[:count], areas[count:]
        thickness = sum(row) / side
        along = 0.0
        for area in row:
            length = area / thickness
            boxes.append(Box(left, top + along, thickness, length) if is_wide else
                         Box(left + along, top, length, thickness))  # fmt: skip
            along += length
        if is_wide:
            left, width = left + thickness, width - thickness
        else:
            top, height = top + thickness, height - thickness
    return [Box(box.left / aspect, box.top, box.width / aspect, box.height) for box in boxes]


def _row_length(areas: Sequence[float], side: float) -> int:
    """Return how many of the first areas make a row along ``side``."""
    best = _worst(areas[:1], side)
    for count in range(2, len(areas) + 1):
        worst = _worst(areas[:count], side)
        if worst > best:
            return count - 1
        best = worst
    return len(areas)


def _worst(row: Sequence[float], side: float) -> float:
    """Return the largest ratio of sides in a row."""
    thickness = sum(row) / side
    return max(max(thickness * thickness / area, area / (thickness * thickness)) for area in row)

"""Charts as plain data, and their colours. The template draws them on the page, and matplotlib draws them into files.

Every position is a share of the plot: 0 is the left or lower edge, 1 the right or upper edge. Every colour is a CSS
variable with a value for the light and for the dark theme.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

from slr_bench.units import format_bytes, format_seconds

PALETTE: Final = {
    "ink": ("#1f2933", "#e6ebf0"),
    "muted": ("#5f6c7b", "#9aa7b5"),
    "rule": ("#d9dee4", "#313b46"),
    "warn": ("#b45309", "#f5b454"),
    "arm-0": ("#2563eb", "#60a5fa"),
    "arm-1": ("#0d9488", "#2dd4bf"),
    "arm-2": ("#d97706", "#fbbf24"),
    "arm-3": ("#7c3aed", "#a78bfa"),
    "arm-4": ("#db2777", "#f472b6"),
    "arm-5": ("#64748b", "#94a3b8"),
    "phase-0": ("#3b82f6", "#60a5fa"),
    "phase-1": ("#f59e0b", "#fcd34d"),
    "phase-2": ("#10b981", "#34d399"),
    "phase-3": ("#ef4444", "#f87171"),
    "phase-4": ("#8b5cf6", "#c4b5fd"),
    "phase-5": ("#9ca3af", "#d1d5db"),
}
"""CSS variable -> colour in the light and in the dark theme. Files are drawn in the light colours; no two are equal."""
# The last arm colour is close to the grey of dominated cells: arms without a colour of their own share it.
ARMS: Final = tuple(name for name in PALETTE if name.startswith("arm"))

CATEGORIES: Final = {
    "parameter": "arm-5",
    "gradient": "arm-1",
    "optimizer state": "arm-2",
    "buffer": "arm-3",
    "input": "arm-4",
    "saved activation": "arm-0",
    "weight cast": "phase-4",
    "temporary": "phase-3",
    "held": "phase-2",
}
"""Category of bytes -> variable of its colour."""
OTHER: Final = "phase-5"
STEP_PHASES: Final = ("load", "forward", "backward", "optimizer")
"""Phases of a step. They are drawn in shades of the ink, because the colours belong to the categories."""
SHADES: Final = {f"shade-{place}": percent for place, percent in enumerate((14, 28, 46, 66, 88))}
"""Variable of a shade -> per cent of ink in it. The first shade is for phases that are not listed."""


def light(variable: str) -> str:
    """Return the colour of a variable in the light theme, in which files are drawn."""
    if variable in SHADES:
        ink, share = PALETTE["ink"][0], SHADES[variable] / 100
        return "#" + "".join(f"{round(255 - share * (255 - int(ink[at : at + 2], 16))):02x}" for at in (1, 3, 5))
    return PALETTE[variable][0]


def arm_variable(place: int) -> str:
    """Return the colour variable of the n-th arm. After the last colour the first one is used again."""
    return ARMS[place % len(ARMS)]


def category_variable(name: str) -> str:
    """Return the colour variable of a category of bytes; unknown categories share one grey."""
    return CATEGORIES.get(name, OTHER)


def phase_shade(name: str) -> str:
    """Return the shade of a phase; unknown phases share the palest one."""
    return f"shade-{STEP_PHASES.index(name) + 1 if name in STEP_PHASES else 0}"


class Tick(NamedTuple):
    """A mark on an axis: its text and its position."""

    text: str
    position: float


class LegendEntry(NamedTuple):
    """A colour of the palette and what it stands for."""

    colour: str
    text: str


class Scale(NamedTuple):
    """Maps the values of an axis to positions."""

    low: float
    high: float
    is_logarithmic: bool = False

    def position(self, value: float) -> float:
        """Return the position of a value."""
        if self.is_logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, values: Iterable[float]) -> tuple[Tick, ...]:
        """Return ticks for values in bytes."""
        return tuple(Tick(short_bytes(value), self.position(value)) for value in values)


class Bar(NamedTuple):
    """A bar from ``start`` to ``end`` in a colour of the palette; in a chart, or under the text of a table's cell."""

    start: float
    end: float
    colour: str


class BarRow(NamedTuple):
    """A row of a bar chart: a label, its bars, and a text at ``text_position``."""

    label: str
    bars: tuple[Bar, ...]
    text: str
    text_position: float
    is_strong: bool = True
    """Rows that are not strong are drawn pale."""
    is_warning: bool = False
    """True if the text is the reason for a missing bar."""
    link_position: float | None = None
    """Position of a thin line from this row to the row above, where a waterfall goes on."""


@dataclass(frozen=True)
class BarChart:
    """Horizontal bars, the first row on top."""

    title: str
    rows: tuple[BarRow, ...]
    ticks: tuple[Tick, ...]
    room: float = 0.16
    """Share of the plot that is added on the right for the texts behind the bars."""
    x_label: str = ""
    legend: tuple[LegendEntry, ...] = ()


class Dot(NamedTuple):
    """A cell or a setting in a scatter chart: its position, its look and its texts."""

    x: float
    y: float
    colour: str
    text: str = ""
    """The description that a tooltip shows."""
    name: str = ""
    """The name beside the dot; empty for most dots."""
    accuracy: str = ""
    """The accuracy below the name; empty for most dots."""
    link: str = ""
    is_own: bool = False
    """True for the own setting of an arm, and for the setting that a plan chose. It is drawn larger."""
    is_dominated: bool = False


@dataclass(frozen=True)
class Scatter:
    """Memory against time: a dot per cell, and the line below which no cell lies."""

    kind: ClassVar[str] = "scatter"
    title: str
    dots: tuple[Dot, ...]
    front: tuple[tuple[float, float], ...]
    """Corners of the line, from left to right; it runs in steps."""
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_label: str
    y_label: str
    legend: tuple[LegendEntry, ...]
    front_text: str = "no cell lies below this line; grey or hollow: dominated"
    limit: Tick | None = None
    """A line across at a height, such as a budget. Only files have it."""

    @property
    def has_hollow(self) -> bool:
        """True if an arm's own setting is dominated. Its dot is then a ring in the arm's colour."""
        return any(dot.is_own and dot.is_dominated for dot in self.dots)


def short_bytes(value: float) -> str:
    """Format bytes for a tick, without zeros behind the point: ``'64 MiB'``, not ``'64.0 MiB'``."""
    return short(format_bytes(value))


def short(text: str) -> str:
    """Remove zeros behind the decimal point: ``'400.0 ms'`` becomes ``'400 ms'``."""
    return re.sub(r"\.0+ ", " ", text)


def byte_step(largest: float, most: int = 5) -> int:
    """Return the smallest power of two that fits into ``largest`` at most ``most`` times."""
    step = 1
    while step * most < largest:
        step *= 2
    return step


def byte_ticks(top: float, most: int = 4) -> tuple[Tick, ...]:
    """Return the ticks of a linear axis from 0 to ``top`` bytes."""
    return Scale(0, top).ticks(range(0, int(top) + 1, byte_step(top, most))) if top > 0 else ()


def doublings(low: float, high: float, most: int = 7) -> tuple[float, ...]:
    """Return powers of two between ``low`` and ``high``; of many, every second or third."""
    powers = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    return tuple(2.0**power for power in powers[:: max(1, -(-len(powers) // most))])


def round_ticks(low: float, high: float, most: int = 6) -> tuple[float, ...]:
    """Return round numbers (1, 2 or 5 times a power of ten) from ``low`` to ``high``."""
    if not high > low:
        return (low,)
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step)
    return tuple(step * count for count in range(first, math.floor(high / step) + 1))


def memory_scale(memories: Sequence[float]) -> Scale:
    """Return a logarithmic scale if memories differ fourfold: on a linear one the smaller would lie on the ground."""
    low, high = min(memories), max(memories)
    return Scale(low / 1.4, high * 1.5, True) if high >= 4 * low else Scale(0, high * 1.15)


def memory_ticks(scale: Scale) -> tuple[Tick, ...]:
    """Return the ticks of a scale from :func:`memory_scale`."""
    if scale.is_logarithmic:
        return scale.ticks(doublings(scale.low, scale.high))
    step = 2.0 ** math.floor(math.log2(scale.high / 3))
    return scale.ticks(step * count for count in range(math.floor(scale.high / step) + 1))


def time_scale(times_s: Sequence[float]) -> Scale:
    """Return a scale from 0 where times differ much, else one that begins just below the shortest."""
    low, high = min(times_s), max(times_s)
    return Scale(0.0 if low < high / 3 else low * 0.85, high * 1.15)


def time_ticks(scale: Scale) -> tuple[Tick, ...]:
    """Return the ticks of a scale from :func:`time_scale`."""
    values = round_ticks(scale.low, scale.high)
    return tuple(Tick(short(format_seconds(value)) if value else "0", scale.position(value)) for value in values)

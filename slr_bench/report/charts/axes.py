"""Where an axis has its marks."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from slr_bench.units import format_bytes


class Tick(NamedTuple):
    """A mark on an axis: its text, and its place from 0 to 1."""

    text: str
    place: float


def short_bytes(value: float) -> str:
    """``'64 MiB'`` where ``format_bytes`` says ``'64.0 MiB'``: a tick's digits are known."""
    return short(format_bytes(value))


def short(text: str) -> str:
    """``'400 ms'`` for ``'400.0 ms'``."""
    return re.sub(r"\.0+ ", " ", text)


def byte_step(largest: float, most: int = 5) -> int:
    """The power of two of which ``largest`` holds ``most`` multiples at most."""
    step = 1
    while step * most < largest:
        step *= 2
    return step


def byte_ticks(top: float, most: int = 4) -> tuple[Tick, ...]:
    """Of a linear axis from 0 to ``top`` bytes."""
    step = byte_step(top, most)
    return tuple(Tick(short_bytes(value), value / top) for value in range(0, int(top) + 1, step)) if top > 0 else ()


def doublings(low: float, high: float, most: int = 7) -> tuple[float, ...]:
    """Powers of two between ``low`` and ``high`` bytes, every second or third where they are many."""
    powers = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    return tuple(2.0**power for power in powers[:: max(1, -(-len(powers) // most))])


def round_ticks(low: float, high: float, most: int = 6) -> tuple[float, ...]:
    """Round numbers (1, 2 or 5 times a power of ten) from ``low`` to ``high``."""
    if not high > low:
        return (low,)
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step)
    return tuple(step * count for count in range(first, math.floor(high / step) + 1))

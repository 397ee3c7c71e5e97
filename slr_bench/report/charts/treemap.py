"""The peak by module as a treemap: a tile a module, cut by category."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Final, NamedTuple

from slr_bench.report.charts.palette import category_variable
from slr_bench.report.charts.treemap_figure import Box, squarified
from slr_bench.report.text.words import plain
from slr_bench.units import format_bytes

ASPECT: Final = 1.7
"""Width of the treemap over its height, on a desktop."""
LEAST_SHARE: Final = 0.008
"""Of the peak: smaller modules share one box."""
LEAST_SLICE: Final = 0.12
"""Of a module: smaller categories are counted to its largest."""


class Slice(NamedTuple):
    """A category within a tile, from ``start`` to ``end`` of its longer side (0 to 1)."""

    colour: str
    start: float
    end: float


class Tile(NamedTuple):
    """A module at the peak."""

    name: str
    label: str
    """What tells it from the others, short enough to be written into it."""
    text: str
    box: Box
    slices: tuple[Slice, ...]
    """The largest category first."""
    is_wide: bool


def tiles(modules: Mapping[str, Mapping[str, int]], most: int) -> tuple[Tile, ...]:
    """A box a module, the small ones together in the last."""
    sizes = {name: sum(parts.values()) for name, parts in modules.items()}
    total = sum(sizes.values())
    ordered = sorted((name for name in sizes if sizes[name] > 0), key=lambda name: -sizes[name])
    large = [name for name in ordered[: most - 1] if sizes[name] >= LEAST_SHARE * total]
    rest = ordered[len(large) :]
    kinds = {name: Counter(modules[name]) for name in large}
    kinds |= {_others(rest): sum((Counter(modules[name]) for name in rest), Counter())} if rest else {}
    shown = sorted(kinds, key=lambda name: -kinds[name].total())
    boxes = squarified([kinds[name].total() for name in shown], ASPECT)
    labels = short_names(shown)
    return tuple(_tile(name, labels[name], kinds[name], box) for name, box in zip(shown, boxes, strict=True))


def _tile(name: str, label: str, parts: Counter[str], box: Box) -> Tile:
    is_wide = box.width * ASPECT >= box.height
    return Tile(plain(name, 60), plain(label, 40), format_bytes(parts.total()), box, _slices(parts), is_wide)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The last two parts of each path, without what all paths begin with: ``backbone.layer4.0.conv2`` ->
    ``layer4.0.conv2``. A number goes with the part before it.
    """
    parts = {name: _parts(name) for name in names}
    paths = [found[:-1] for found in parts.values() if len(found) > 1]
    shared = takewhile(lambda level: len(set(level)) == 1, zip(*paths, strict=False))
    common = len(list(shared)) if len(paths) > 1 else 0
    return {name: ".".join(found[common if len(found) > 1 else 0 :][-2:]) for name, found in parts.items()}


def _parts(name: str) -> list[str]:
    return re.split(r"\.(?!\d+(?:\.|$))", name)


def _others(rest: Sequence[str]) -> str:
    return rest[0] if len(rest) == 1 else f"{len(rest)} more modules"


def _slices(parts: Mapping[str, int]) -> tuple[Slice, ...]:
    total = sum(parts.values())
    large = [name for name in sorted(parts, key=lambda name: -parts[name]) if parts[name] >= LEAST_SLICE * total]
    if not large:
        return (Slice(category_variable(max(parts, key=lambda name: parts[name])), 0.0, 1.0),)
    scale = sum(parts[name] for name in large)
    made, start = [], 0.0
    for name in large:
        end = start + parts[name] / scale
        made.append(Slice(category_variable(name), start, end))
        start = end
    return tuple(made)

"""What lives at the peak: by category, module and phase, the largest tensors, and live bytes over the step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from slr_bench.trace.recording import CATEGORIES, Storage, Story

TOP_TENSORS: Final = 20
TIMELINE_POINTS: Final = 400


class Timeline(NamedTuple):
    """Live bytes after each operator, thinned: each point is the fullest moment of its stretch, so the peak stays."""

    operators: int
    """Before thinning."""
    positions: list[int]
    phase: list[str]
    by_category: dict[str, list[int]]


class Breakdown(NamedTuple):
    """The traced peak of one step. Categories and modules each add up to it."""

    peak_bytes: int
    by_category: dict[str, int]
    by_module: dict[str, dict[str, int]]
    """Module -> category -> bytes, largest module first."""
    by_phase: dict[str, int]
    """Largest live bytes while in a phase."""
    top: list[dict[str, Any]]
    """The largest tensors: ``shape, dtype, bytes, category, module, origin, phase``."""
    timeline: Timeline


def breakdown(story: Story) -> Breakdown:
    """Attribute the peak of a recorded step."""
    position = story.peak_position
    alive = [storage for storage in story.storages if storage.lives_at(position)]
    modules: dict[str, Counter[str]] = {}
    categories: Counter[str] = Counter()
    for storage in alive:
        category = storage.category_at(position)
        categories[category] += storage.size_bytes
        modules.setdefault(storage.module, Counter())[category] += storage.size_bytes
    total = sum(categories.values())
    assert total == story.peak_bytes, f"the parts of the peak make {total}, the peak is {story.peak_bytes}"
    largest = sorted(modules, key=lambda name: -modules[name].total())
    return Breakdown(
        peak_bytes=story.peak_bytes,
        by_category={name: categories[name] for name in in_order(categories) if categories[name]},
        by_module={name: dict(modules[name]) for name in largest if modules[name].total()},
        by_phase=dict(story.peak_by_phase),
        top=[_described(storage, position) for storage in _largest(alive)],
        timeline=timeline(story),
    )


def in_order(names: Any) -> list[str]:
    """Category names as they are shown: the known ones first."""
    return [*(name for name in CATEGORIES if name in names), *(name for name in names if name not in CATEGORIES)]


def _largest(alive: Sequence[Storage]) -> list[Storage]:
    return sorted(alive, key=lambda storage: -storage.size_bytes)[:TOP_TENSORS]


def _described(storage: Storage, position: int) -> dict[str, Any]:
    return {
        "shape": list(storage.shape),
        "dtype": storage.dtype,
        "bytes": storage.size_bytes,
        "category": storage.category_at(position),
        "module": storage.module,
        "origin": storage.origin,
        "phase": storage.phase,
    }


def timeline(story: Story, points: int = TIMELINE_POINTS) -> Timeline:
    """Live bytes by category after each operator; what was there before the first one is in all of them."""
    count = len(story.operators)
    changes: list[Counter[str]] = [Counter() for _ in range(count + 2)]  # place 0: before the first operator
    for storage in story.storages:
        born, size = storage.born + 1, storage.size_bytes
        first = storage.category_at(storage.born)
        changes[born][first] += size
        last = first
        if storage.saved_from is not None and storage.saved_from > storage.born:
            last = storage.category_at(storage.saved_from)
            changes[storage.saved_from + 1][first] -= size
            changes[storage.saved_from + 1][last] += size
        if storage.died is not None:
            changes[storage.died + 2][last] -= size
    live: Counter[str] = Counter()
    rows = []
    for change in changes[:-1]:
        live.update(change)
        rows.append(dict(live))
    phases = ["", *(operator.phase for operator in story.operators)]
    stride = max(1, -(-len(rows) // points))
    kept = [
        max(range(start, min(start + stride, len(rows))), key=lambda place: sum(rows[place].values()))
        for start in range(0, len(rows), stride)
    ]
    names = in_order(dict.fromkeys(name for row in rows for name in row))
    series = {name: [rows[place].get(name, 0) for place in kept] for name in names}
    return Timeline(
        operators=count,
        positions=[place - 1 for place in kept],
        phase=[phases[place] for place in kept],
        by_category={name: values for name, values in series.items() if any(values)},
    )

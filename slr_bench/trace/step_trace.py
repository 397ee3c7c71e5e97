"""The recorded step, and the attribution of its peak by category, module and phase. Imports no torch.

The operator floor is the least memory a step can need unless its operators are split. At every operator there must be
the state that outlives the step, the gradients that were accumulated before and are read later, and the operator's own
distinct inputs and outputs. The floor is the largest of these sums. Each of its parts is alive at that operator in any
order of the same operators, so it never exceeds the peak.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final, NamedTuple

PARAMETER, GRADIENT, BUFFER, OPTIMIZER_STATE = "parameter", "gradient", "buffer", "optimizer state"
INPUT, SAVED, TEMPORARY, WEIGHT_CAST = "input", "saved activation", "temporary", "weight cast"
HELD = "held"
"""Category of tensors alive before the step that the workload does not name, such as the last step's losses."""
CATEGORIES = (PARAMETER, GRADIENT, OPTIMIZER_STATE, BUFFER, INPUT, SAVED, WEIGHT_CAST, TEMPORARY, HELD)
"""All categories, in the order in which they are displayed."""
TF32 = "tf32"
"""Name in ``flops_by_dtype`` of fp32 products whose factors may be rounded to 10 bits."""
LOAD_PHASE = "load"
"""Tensors made in this phase are input."""
BEFORE = -1
"""Position of storages that exist before the first operator."""


@dataclass(slots=True)
class Storage:
    """A storage and its life. Positions are numbers of operators: it was made in one and died after another."""

    size_bytes: int
    shape: tuple[int, ...]
    """Shape of the first tensor on it."""
    dtype: str
    address: int | None
    """Address in memory, or None for fake tensors."""
    category: str
    """Category during its whole life; :meth:`category_at` adds the time when it is saved for backward."""
    born: int
    operator: str | None
    """The operator that made it, or None for state."""
    module: str
    phase: str
    origin: str
    saved_from: int | None = None
    died: int | None = None
    """Number of the last operator that ran before it died, or None if it outlived the step."""
    key: int = 0
    replaced_at: int | None = None
    """Number of the operator of the next step after which an unnamed tensor of this step dies, because that step's own
    takes its place. None if that is the end of the step."""

    def category_at(self, position: int) -> str:
        """Return its category after operator ``position``."""
        if self.category == TEMPORARY and self.saved_from is not None and self.saved_from <= position:
            return SAVED
        return self.category

    def lives_at(self, position: int) -> bool:
        """Return whether it is alive right after operator ``position``."""
        return self.born <= position and (self.died is None or self.died >= position)


class Operator(NamedTuple):
    """One call of an operator, with the numbers of its distinct storages."""

    name: str
    module: str
    phase: str
    storages: tuple[int, ...]
    touched_bytes: int = 0
    """Bytes of its inputs and outputs; 0 for a view."""


@dataclass(eq=False)
class StepTrace:
    """One recorded step. It keeps no tensor alive."""

    storages: list[Storage] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    split_modules: tuple[str, ...] = ()
    flops: int = 0
    """Floating-point operations of products and convolutions, by torch's own formulas (a multiply-add is two)."""
    flops_by_dtype: Counter[str] = field(default_factory=Counter)
    touched_bytes: int = 0
    """Bytes touched by all operators: the least that crosses the memory bus if nothing is fused."""
    peak_bytes: int = 0
    peak_position: int = BEFORE
    """The operator after which the peak was reached."""
    peak_by_phase: dict[str, int] = field(default_factory=dict)


TOP_TENSORS: Final = 20
TIMELINE_POINTS: Final = 400


class Timeline(NamedTuple):
    """Live bytes after each operator, thinned: each point is the maximum of its stretch, so the peak is kept."""

    operators: int
    """Number of operators before thinning."""
    positions: list[int]
    phase: list[str]
    by_category: dict[str, list[int]]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of samples and profiles: live bytes over the step, in total and by category."""
        return {
            "operators": self.operators,
            "live_bytes": [sum(values) for values in zip(*self.by_category.values(), strict=True)],
            "phase": self.phase,
            "by_category": self.by_category,
        }


class PeakTensor(NamedTuple):
    """A tensor alive at the peak."""

    shape: tuple[int, ...]
    dtype: str
    size_bytes: int
    category: str
    module: str
    origin: str
    phase: str

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of ``top`` in a profile."""
        values = self._asdict()
        return {"bytes" if name == "size_bytes" else name: value for name, value in values.items()}


class Breakdown(NamedTuple):
    """The traced peak of one step. Categories add up to it, and so do modules."""

    peak_bytes: int
    by_category: dict[str, int]
    by_module: dict[str, dict[str, int]]
    """Module -> category -> bytes, largest module first."""
    by_phase: dict[str, int]
    """Largest live bytes while in a phase."""
    top: list[PeakTensor]
    """The largest tensors, largest first."""
    timeline: Timeline


class Floor(NamedTuple):
    """The operator floor, and the operator that needs it."""

    floor_bytes: int
    operator: str | None
    """None if no operator needs more than the state; so are module and phase."""
    module: str | None
    phase: str | None


def breakdown(step: StepTrace) -> Breakdown:
    """Attribute the peak of a recorded step."""
    position = step.peak_position
    alive = [storage for storage in step.storages if storage.lives_at(position)]
    modules: dict[str, Counter[str]] = {}
    categories: Counter[str] = Counter()
    for storage in alive:
        category = storage.category_at(position)
        categories[category] += storage.size_bytes
        modules.setdefault(storage.module, Counter())[category] += storage.size_bytes
    total = sum(categories.values())
    assert total == step.peak_bytes, f"the parts of the peak make {total}, the peak is {step.peak_bytes}"
    by_size = sorted(modules, key=lambda name: -modules[name].total())
    largest = sorted(alive, key=lambda storage: -storage.size_bytes)[:TOP_TENSORS]
    return Breakdown(
        peak_bytes=step.peak_bytes,
        by_category={name: categories[name] for name in in_order(categories) if categories[name]},
        by_module={name: dict(modules[name]) for name in by_size if modules[name].total()},
        by_phase=dict(step.peak_by_phase),
        top=[_peak_tensor(storage, position) for storage in largest],
        timeline=timeline(step),
    )


def in_order(names: Iterable[str]) -> list[str]:
    """Return category names in the order in which they are displayed, unknown ones last."""
    names = list(names)
    return [*(name for name in CATEGORIES if name in names), *(name for name in names if name not in CATEGORIES)]


def _peak_tensor(storage: Storage, position: int) -> PeakTensor:
    category = storage.category_at(position)
    return PeakTensor(
        storage.shape, storage.dtype, storage.size_bytes, category, storage.module, storage.origin, storage.phase
    )


def timeline(step: StepTrace, points: int = TIMELINE_POINTS) -> Timeline:
    """Return live bytes by category after each operator; the state is part of every point."""
    count = len(step.operators)
    changes: list[Counter[str]] = [Counter() for _ in range(count + 2)]  # entry 0: before the first operator
    for storage in step.storages:
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
    phases = ["", *(operator.phase for operator in step.operators)]
    stride = max(1, -(-len(rows) // points))
    kept = [
        max(range(start, min(start + stride, len(rows))), key=lambda row: sum(rows[row].values()))
        for start in range(0, len(rows), stride)
    ]
    names = in_order(dict.fromkeys(name for row in rows for name in row))
    series = {name: [rows[row].get(name, 0) for row in kept] for name in names}
    return Timeline(
        operators=count,
        positions=[row - 1 for row in kept],
        phase=[phases[row] for row in kept],
        by_category={name: values for name, values in series.items() if any(values)},
    )


def operator_floor(step: StepTrace) -> Floor:
    """Return the operator floor of a recorded step."""
    storages, operators = step.storages, step.operators
    state = {n for n, storage in enumerate(storages) if storage.born == BEFORE and storage.died is None}
    state_bytes = sum(storages[n].size_bytes for n in state)
    gradients_due = _gradients_due(storages, operators, state)
    floor = Floor(state_bytes, None, None, None)
    for operator, (due_bytes, due) in zip(operators, gradients_due, strict=True):
        inputs_and_outputs = sum(storages[n].size_bytes for n in operator.storages if n not in state and n not in due)
        total = state_bytes + due_bytes + inputs_and_outputs
        if total > floor.floor_bytes:
            floor = Floor(total, operator.name, operator.module, operator.phase)
    return floor


def _gradients_due(
    storages: Sequence[Storage], operators: Sequence[Operator], state: set[int]
) -> list[tuple[int, frozenset[int]]]:
    """Return, for each operator, bytes and numbers of the gradients made by then and used then or later."""
    last_use: dict[int, int] = {}
    for position, operator in enumerate(operators):
        for n in operator.storages:
            if storages[n].category == GRADIENT and n not in state:
                last_use[n] = position
    changes: list[list[int]] = [[] for _ in range(len(operators) + 1)]
    for n, last in last_use.items():
        changes[max(0, storages[n].born)].append(n)
        changes[last + 1].append(n)
    sets = accumulate(changes[:-1], lambda due, change: due ^ frozenset(change), initial=frozenset[int]())
    next(sets)
    return [(sum(storages[n].size_bytes for n in due), due) for due in sets]

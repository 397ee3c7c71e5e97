"""A recorded step, told: every operator, and every storage with what it is, who made it and how long it lived."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

PARAMETER, GRADIENT, BUFFER, OPTIMIZER_STATE = "parameter", "gradient", "buffer", "optimizer state"
HELD = "held"
"""Category of tensors alive before the step that the workload does not name, such as the last step's losses."""
INPUT, SAVED, TEMPORARY, WEIGHT_CAST = "input", "saved activation", "temporary", "weight cast"
CATEGORIES = (PARAMETER, GRADIENT, OPTIMIZER_STATE, BUFFER, INPUT, SAVED, WEIGHT_CAST, TEMPORARY, HELD)
"""In the order in which they are shown."""
LOAD_PHASE = "load"
"""What is made in this phase is input."""
BEFORE = -1
"""Position of what was there before the first operator."""


@dataclass(slots=True)
class Storage:
    """A storage and its life. Positions are numbers of operators: it was made in one and died after another."""

    size_bytes: int
    shape: tuple[int, ...]
    """Of the first tensor seen on it."""
    dtype: str
    address: int | None
    """None for fake tensors."""
    category: str
    """Of its whole life, saving for backward apart."""
    born: int
    operator: str | None
    """Which made it; None for state."""
    module: str
    phase: str
    origin: str
    saved_from: int | None = None
    died: int | None = None
    """Number of the last operator that ran before it went; None if it outlived the step."""
    key: int = 0

    def category_at(self, position: int) -> str:
        """What it is after operator ``position``."""
        if self.category == TEMPORARY and self.saved_from is not None and self.saved_from <= position:
            return SAVED
        return self.category

    def lives_at(self, position: int) -> bool:
        """Whether it is alive right after operator ``position``."""
        return self.born <= position and (self.died is None or self.died >= position)


class Operator(NamedTuple):
    """One call of an operator: its distinct storages, by number."""

    name: str
    module: str
    phase: str
    storages: tuple[int, ...]
    touched_bytes: int = 0
    """Of its inputs and outputs; none for a view."""


@dataclass(eq=False)
class Story:
    """One step, told; no tensor is kept."""

    storages: list[Storage]
    operators: list[Operator]
    split_modules: tuple[str, ...] = ()
    flops: int = 0
    """Floating-point operations of products and convolutions, by torch's own formulas (a multiply-add is two)."""
    flops_by_dtype: Counter[str] = field(default_factory=Counter)
    touched_bytes: int = 0
    """By all operators: what has to cross the memory bus at least, if nothing is fused."""
    peak_bytes: int = 0
    peak_position: int = BEFORE
    """The operator after which the peak was reached."""
    peak_by_phase: dict[str, int] = field(default_factory=dict)

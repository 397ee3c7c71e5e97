"""The recorded step: every operator, and every storage with its category, its maker and its life. No torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

PARAMETER, GRADIENT, BUFFER, OPTIMIZER_STATE = "parameter", "gradient", "buffer", "optimizer state"
INPUT, SAVED, TEMPORARY, WEIGHT_CAST = "input", "saved activation", "temporary", "weight cast"
HELD = "held"
"""Category of tensors alive before the step that the workload does not name, such as the last step's losses."""
CATEGORIES = (PARAMETER, GRADIENT, OPTIMIZER_STATE, BUFFER, INPUT, SAVED, WEIGHT_CAST, TEMPORARY, HELD)
"""All categories, in the order in which they are displayed."""
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

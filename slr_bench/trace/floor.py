"""The operator floor: the least memory a step can need unless its operators are split.

At every operator there must be: the state that outlives the step, the gradients that were accumulated before and are
read later, and the operator's own distinct inputs and outputs. The floor is the largest of these sums. Each of its
parts is alive at that operator in any order of the same operators, so it never exceeds the peak.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from slr_bench.trace.recording import BEFORE, GRADIENT, Operator, Storage


class Floor(NamedTuple):
    """Bytes, and the operator that needs them."""

    floor_bytes: int
    operator: str | None
    """None where no operator needs more than the state."""
    module: str | None
    phase: str | None


def operator_floor(storages: Sequence[Storage], operators: Sequence[Operator]) -> Floor:
    """The floor of one recorded step."""
    state = {n for n, storage in enumerate(storages) if storage.born == BEFORE and storage.died is None}
    state_bytes = sum(storages[n].size_bytes for n in state)
    gradients_bytes = _gradients_due(storages, operators, state)
    best = Floor(state_bytes, None, None, None)
    for position, operator in enumerate(operators):
        due_bytes, due = gradients_bytes[position]
        own = sum(storages[n].size_bytes for n in operator.storages if n not in state and n not in due)
        total = state_bytes + due_bytes + own
        if total > best.floor_bytes:
            best = Floor(total, operator.name, operator.module, operator.phase)
    return best


def _gradients_due(
    storages: Sequence[Storage], operators: Sequence[Operator], state: set[int]
) -> list[tuple[int, frozenset[int]]]:
    """At each operator: bytes and numbers of the gradients made at or before it and used at or after it."""
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

"""What need not be run: a setting that needs at least what another one, otherwise equal, already had too little of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from slr_bench.grid.cells import Cell, flatten
from slr_bench.record import Outcome, Record
from slr_bench.units import is_number

_OUT_OF_MEMORY = {Outcome.OOM_GPU: "out of GPU memory", Outcome.OOM_HOST: "out of RAM"}


class Dominance:
    """The order on a grid's cells: equal but for the workload's ``monotone`` keys, none smaller, one larger."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._cells = {cell.cell_id: cell for cell in cells}
        self._split = {cell_id: _split(cell) for cell_id, cell in self._cells.items()}

    def dominates(self, small_id: str, large_id: str) -> bool:
        """Whether ``large`` needs at least the memory of ``small``: a strict partial order. False for unknown ids."""
        if small_id not in self._split or large_id not in self._split:
            return False
        (small, small_rest), (large, large_rest) = self._split[small_id], self._split[large_id]
        if small_rest != large_rest or small == large:
            return False
        return all(_is_at_most(small[key], large[key]) for key in small)

    def why_skipped(self, cell_id: str, records: Iterable[Record]) -> str | None:
        """The reason not to run a cell, from what has run so far; None: run it.

        A cell dominates after an out-of-memory, unless it also ended ok once; one that ended ok itself is not skipped.
        """
        ends: dict[str, set[Outcome]] = {}
        for record in records:
            ends.setdefault(record.cell_id, set()).add(record.outcome)
        if Outcome.OK in ends.get(cell_id, set()):
            return None
        for other, outcomes in ends.items():
            failed = outcomes & _OUT_OF_MEMORY.keys()
            if failed and Outcome.OK not in outcomes and self.dominates(other, cell_id):
                return self._reason(other, cell_id, next(kind for kind in _OUT_OF_MEMORY if kind in failed))
        return None

    def _reason(self, small_id: str, large_id: str, outcome: Outcome) -> str:
        small, large = self._split[small_id][0], self._split[large_id][0]
        larger = ", ".join(f"{key} {large[key]} > {small[key]}" for key in small if small[key] != large[key])
        return (
            f"not run: cell {small_id}, equal but for {larger}, ran {_OUT_OF_MEMORY[outcome]} ({outcome}); "
            "--no-skip runs it all the same"
        )


def _split(cell: Cell) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Monotone values and the rest; another workload is a difference in the rest."""
    flat = flatten(cell.public_setting)
    monotone = {key: flat.pop(key) for key in cell.spec.monotone if key in flat}
    return monotone, flat | {"": cell.spec.name}


def _is_at_most(small: Any, large: Any) -> bool:
    """Numbers compare by size, anything else only with itself."""
    if is_number(small) and is_number(large):
        return bool(small <= large)
    return bool(small == large)

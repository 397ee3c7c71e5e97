"""Which runs are made, in what order, and which are skipped because they need more memory than one that failed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from slr_bench.files import flatten
from slr_bench.grid.cells import Cell
from slr_bench.record import Outcome, Record
from slr_bench.units import is_number

Side = Literal["a", "b"]

_OUT_OF_MEMORY: Final = {Outcome.OOM_GPU: "out of GPU memory", Outcome.OOM_HOST: "out of RAM"}


class Run(NamedTuple):
    """One process: a cell, a side and a repeat."""

    cell: Cell
    side: Side
    repeat: int

    @property
    def name(self) -> str:
        """Stem of the file of its record."""
        return f"{self.cell.cell_id}-{self.side}-{self.repeat}"

    @property
    def partner_name(self) -> str:
        """Stem of the file of the record of the pair's other side."""
        return f"{self.cell.cell_id}-{'b' if self.side == 'a' else 'a'}-{self.repeat}"


def schedule(cells: Sequence[Cell], sides: int = 1, identity: str = "") -> list[Run]:
    """Return every run in order: part after part, and within a part repeats interleaved across its cells.

    From the second repeat on, a coin decides whether a repeat goes through the cells forwards or backwards. With two
    sides, where a repeat of a cell is a pair of neighbours, another coin decides which side goes first. So of two equal
    things either is the slower one with the same chance, whatever the machine does meanwhile, as the signed-rank test
    assumes. The first repeat always goes forwards, smaller cells before larger ones: a two-sided test does not depend
    on the first sign. Taking turns, ABBA, does not give equal chances, because neighbours in time are alike. The coins
    are hashes of ``identity``, so an interrupted grid continues in its order.
    """
    # A cell of two parts belongs to the one that wants more repeats of it.
    unique = {cell.cell_id: cell for cell in sorted(cells, key=lambda cell: cell.part.repeats)}
    names: tuple[Side, ...] = ("a", "b") if sides == 2 else ("a",)
    runs = []
    for part in dict.fromkeys(id(cell.part) for cell in cells):
        members = [cell for cell in unique.values() if id(cell.part) == part]
        for repeat in range(members[0].part.repeats if members else 0):
            for cell in members[:: _direction(identity, "cells", repeat)]:
                runs += [Run(cell, side, repeat) for side in names[:: _direction(identity, cell.cell_id, repeat)]]
    return runs


def first_side(identity: str, cell_id: str, repeat: int) -> Side:
    """Return which side of a pair goes first."""
    return "a" if _direction(identity, cell_id, repeat) == 1 else "b"


def _direction(identity: str, what: str, repeat: int) -> Literal[1, -1]:
    if repeat == 0:
        return 1
    digest = hashlib.sha256(f"{identity}\0{what}\0{repeat}".encode()).digest()
    return 1 if digest[0] % 2 else -1


class Dominance:
    """A partial order of cells that are equal except for larger values of the workload's ``monotone`` keys."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._cells = {cell.cell_id: cell for cell in cells}
        self._split = {cell_id: _split(cell) for cell_id, cell in self._cells.items()}

    def dominates(self, small_id: str, large_id: str) -> bool:
        """Return whether ``large`` needs at least the memory of ``small``. False for unknown ids and equal cells."""
        if small_id not in self._split or large_id not in self._split:
            return False
        (small, small_rest), (large, large_rest) = self._split[small_id], self._split[large_id]
        if small_rest != large_rest or small == large:
            return False
        return all(_is_at_most(small[key], large[key]) for key in small)

    def why_skipped(self, cell_id: str, records: Iterable[Record]) -> str | None:
        """Return the reason to skip a cell, given what has run so far; None if it has to run.

        A cell dominates others after an out-of-memory, unless it also ended ok once. A cell that ended ok is not
        skipped.
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
    """Return the monotone values and the rest; the name of the workload is part of the rest."""
    flat = flatten(cell.public_setting)
    monotone = {key: flat.pop(key) for key in cell.spec.monotone if key in flat}
    return monotone, flat | {"": cell.spec.name}


def _is_at_most(small: Any, large: Any) -> bool:
    """Compare numbers by size, and anything else for equality."""
    if is_number(small) and is_number(large):
        return bool(small <= large)
    return bool(small == large)

"""Which processes are made, and in what order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from slr_bench.grid.cells import Cell

Side = Literal["a", "b"]


class Run(NamedTuple):
    """One process to come: a cell, a side, a repeat."""

    cell: Cell
    side: Side
    repeat: int

    @property
    def name(self) -> str:
        """Stem of its record."""
        return f"{self.cell.cell_id}-{self.side}-{self.repeat}"

    @property
    def partner_name(self) -> str:
        """Stem of the record of the pair's other side."""
        return f"{self.cell.cell_id}-{'b' if self.side == 'a' else 'a'}-{self.repeat}"


def plan(cells: Sequence[Cell], sides: int = 1) -> list[Run]:
    """Every run in order: part after part, within a part repeats interleaved across its cells.

    Every other repeat goes backwards, so that a machine that slows down slows all cells alike. With two sides each
    repeat of a cell is a pair of neighbours, a then b in even repeats, b then a in odd ones (ABBA).
    """
    # A cell of two parts belongs to the one that wants more repeats of it.
    unique = {cell.cell_id: cell for cell in sorted(cells, key=lambda cell: cell.part.repeats)}
    names: tuple[Side, ...] = ("a", "b") if sides == 2 else ("a",)
    runs = []
    for part in dict.fromkeys(id(cell.part) for cell in cells):
        members = [cell for cell in unique.values() if id(cell.part) == part]
        for repeat in range(members[0].part.repeats if members else 0):
            there = 1 if repeat % 2 == 0 else -1
            runs += [Run(cell, side, repeat) for cell in members[::there] for side in names[::there]]
    return runs

"""Which processes are made, and in what order."""

from __future__ import annotations

import hashlib
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


def plan(cells: Sequence[Cell], sides: int = 1, identity: str = "") -> list[Run]:
    """Every run in order: part after part, within a part repeats interleaved across its cells.

    From the second repeat on a coin decides whether a repeat goes through the cells forwards or backwards, and with two
    sides, where a repeat of a cell is a pair of neighbours, which side goes first. So of two equal things either is the
    slower one with the same chance, whatever the machine does meanwhile: what the signed-rank test assumes. (The first
    repeat may go forwards always, smaller cells before larger ones: a two-sided test does not ask which way the first
    sign points.) Taking turns, ABBA, does not give that, for neighbours in time are alike. The coins are hashes of
    ``identity``: an interrupted grid goes on in its order.
    """
    # A cell of two parts belongs to the one that wants more repeats of it.
    unique = {cell.cell_id: cell for cell in sorted(cells, key=lambda cell: cell.part.repeats)}
    names: tuple[Side, ...] = ("a", "b") if sides == 2 else ("a",)
    runs = []
    for part in dict.fromkeys(id(cell.part) for cell in cells):
        members = [cell for cell in unique.values() if id(cell.part) == part]
        for repeat in range(members[0].part.repeats if members else 0):
            for cell in members[:: _turn(identity, "cells", repeat)]:
                runs += [Run(cell, side, repeat) for side in names[:: _turn(identity, cell.cell_id, repeat)]]
    return runs


def first_side(identity: str, cell_id: str, repeat: int) -> Side:
    """Which side of a pair goes first."""
    return "a" if _turn(identity, cell_id, repeat) == 1 else "b"


def _turn(identity: str, what: str, repeat: int) -> Literal[1, -1]:
    if repeat == 0:
        return 1
    digest = hashlib.sha256(f"{identity}\0{what}\0{repeat}".encode()).digest()
    return 1 if digest[0] % 2 else -1

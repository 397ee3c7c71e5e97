"""What a cell is called, and where on the page it has its place."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from slr_bench.compare.cells import CellSummary
from slr_bench.report.text.setting import value_text
from slr_bench.report.text.words import plain

OTHERS: Final = "other arms"
"""Name of all those that have no colour of their own."""


def axes_text(cell: CellSummary, keys: Collection[str] | None = None) -> str:
    """``batch_size 4, precision bf16``, of all axes or of ``keys``; empty where no axis made the cell."""
    values = cell.entry.coordinates.items()
    return ", ".join(
        f"{key.rsplit('.', 1)[-1]} {value_text(value)}" for key, value in values if keys is None or key in keys
    )


def coordinates_text(cell: CellSummary, keys: Collection[str] | None = None) -> str:
    """The axes; the arm's own setting says so."""
    axes = axes_text(cell, keys)
    parts = [axes] if axes else []
    if cell.entry.is_own:
        parts.append("own setting")
    if cell.side == "b":
        parts.append("side b")
    return plain(", ".join(parts) or "–", 160)


def anchor(cell: CellSummary) -> str:
    """Id on the page, the same whenever the same setting is reported: a link to it holds."""
    return f"cell-{re.sub(r'[^0-9A-Za-z_-]', '_', cell.entry.cell_id)[:40]}{'-b' if cell.side == 'b' else ''}"


def telling_names(cells: Sequence[CellSummary]) -> dict[str, str]:
    """Anchor -> name with nothing in it that all cells share: the workload where there are several, the arms of this
    setting, of the axes as many as tell one cell from another."""
    several = len({cell.entry.workload for cell in cells}) > 1
    kept = {workload: telling_axes(group) for workload, group in _by_workload(cells).items()}
    arms: dict[str, dict[str, None]] = {}
    for cell in cells:
        arms.setdefault(anchor(cell), {})[plain(cell.entry.arm, 40)] = None
    found: dict[str, str] = {}
    for cell in cells:
        workload = f"{plain(cell.entry.workload, 40)} " if several else ""
        rest = coordinates_text(cell, kept[cell.entry.workload])
        name = f"{workload}{' = '.join(arms[anchor(cell)])}" + (f" · {rest}" if rest != "–" else "")
        found.setdefault(anchor(cell), plain(name, 200))
    return found


def _by_workload(cells: Sequence[CellSummary]) -> dict[str, list[CellSummary]]:
    groups: dict[str, list[CellSummary]] = {}
    for cell in cells:
        groups.setdefault(cell.entry.workload, []).append(cell)
    return groups


def telling_axes(cells: Sequence[CellSummary]) -> list[str]:
    """Dotted keys of the axes without which two cells of an arm would be called the same; of axes that change together
    the first."""
    keys = list(dict.fromkeys(key for cell in cells for key in cell.entry.coordinates))
    for key in reversed(keys):
        rest = [other for other in keys if other != key]
        if _count(cells, rest) == _count(cells, keys):
            keys = rest
    return keys


def _count(cells: Sequence[CellSummary], keys: Sequence[str]) -> int:
    """How many cells are told apart by the arm and these axes."""
    return len({repr((cell.entry.arm, [cell.entry.coordinates.get(key) for key in keys])) for cell in cells})

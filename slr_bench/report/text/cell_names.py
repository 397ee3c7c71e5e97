"""Name cells, and give each an anchor on the page."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from slr_bench.compare.cells import CellSummary
from slr_bench.report.text.setting import value_text
from slr_bench.report.text.words import plain

OTHERS: Final = "other arms"
"""Name of the arms that have no colour of their own."""


def axes_text(cell: CellSummary, keys: Collection[str] | None = None) -> str:
    """Return ``size 4, precision bf16`` for all axes or for ``keys``; empty if no axis made the cell."""
    values = cell.entry.coordinates.items()
    return ", ".join(
        f"{key.rsplit('.', 1)[-1]} {value_text(value)}" for key, value in values if keys is None or key in keys
    )


def coordinates_text(cell: CellSummary, keys: Collection[str] | None = None) -> str:
    """Return the axes, and ``own setting`` for the arm's own."""
    axes = axes_text(cell, keys)
    parts = [axes] if axes else []
    if cell.entry.is_own:
        parts.append("own setting")
    if cell.side == "b":
        parts.append("side b")
    return plain(", ".join(parts) or "–", 160)


def anchor(cell: CellSummary) -> str:
    """Return the id on the page. The same setting always has the same id, so that links stay valid."""
    return f"cell-{re.sub(r'[^0-9A-Za-z_-]', '_', cell.entry.cell_id)[:40]}{'-b' if cell.side == 'b' else ''}"


def distinguishing_labels(cells: Sequence[CellSummary]) -> dict[str, str]:
    """Return anchor -> shortest name that distinguishes the cell.

    It has the workload if there are several, the arms with this setting, and only the axes that are needed.
    """
    several = len({cell.entry.workload for cell in cells}) > 1
    kept = {workload: distinguishing_axes(group) for workload, group in _by_workload(cells).items()}
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


def distinguishing_axes(cells: Sequence[CellSummary]) -> list[str]:
    """Return the dotted keys of the axes without which two cells of an arm would have the same name.

    Of axes that always change together only the first is used.
    """
    keys = list(dict.fromkeys(key for cell in cells for key in cell.entry.coordinates))
    for key in reversed(keys):
        rest = [other for other in keys if other != key]
        if _count(cells, rest) == _count(cells, keys):
            keys = rest
    return keys


def _count(cells: Sequence[CellSummary], keys: Sequence[str]) -> int:
    """Count the cells that the arm and these axes distinguish."""
    return len({repr((cell.entry.arm, [cell.entry.coordinates.get(key) for key in keys])) for cell in cells})

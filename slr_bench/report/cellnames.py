"""What a cell is called, and where on the page it has its place."""

from __future__ import annotations

import re
from typing import Final

from slr_bench.compare.summary import CellSummary
from slr_bench.report.setting import value_text
from slr_bench.report.words import plain

OTHERS: Final = "other arms"
"""Name of all those that have no colour of their own."""


def axes_text(cell: CellSummary) -> str:
    """``batch_size 4, precision bf16``; empty where no axis made the cell."""
    return ", ".join(f"{key.rsplit('.', 1)[-1]} {value_text(value)}" for key, value in cell.entry.coordinates.items())


def coordinates_text(cell: CellSummary) -> str:
    """The axes; the arm's own setting says so."""
    axes = axes_text(cell)
    parts = [axes] if axes else []
    if cell.entry.is_own:
        parts.append("own setting")
    if cell.side == "b":
        parts.append("side b")
    return plain(", ".join(parts) or "–", 160)


def anchor(cell: CellSummary) -> str:
    """Id on the page, the same whenever the same setting is reported: a link to it holds."""
    return f"cell-{re.sub(r'[^0-9A-Za-z_-]', '_', cell.entry.cell_id)[:40]}{'-b' if cell.side == 'b' else ''}"

"""The head's figures for services that keep a history: Bencher, github-action-benchmark."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from slr_bench.compare.comparison import Comparison
from slr_bench.compare.judgement import ComparedCell
from slr_bench.report.text.words import format_value, plain
from slr_bench.report.views.compare import title
from slr_bench.report.views.compare_words import cell_name, change_text, verdict_cell

_MEASURE_LIMIT: Final = 64
"""Of Bencher, for the name of a measure."""


def bencher_metrics(comparison: Comparison) -> str:
    """Bencher Metric Format: benchmark (a cell) -> measure (a metric) -> value with its range over the processes."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, cell in _named(comparison.cells):
        assert cell.head is not None
        measure = {"value": cell.head}
        if cell.head_range is not None:
            measure |= dict(zip(("lower_value", "upper_value"), cell.head_range, strict=True))
        found.setdefault(name, {})[plain(cell.metric, _MEASURE_LIMIT)] = measure
    return json.dumps(found, indent=1, allow_nan=False) + "\n"


def smaller_is_better(comparison: Comparison) -> str:
    """``customSmallerIsBetter`` of github-action-benchmark: bytes, times, energy. Speeds and accuracies, of which more
    is better, are left out.
    """
    found: list[dict[str, Any]] = []
    about = title(comparison)
    for name, cell in _named(comparison.cells):
        if cell.larger_is_better:
            continue
        entry = {"name": f"{name}: {plain(cell.metric, _MEASURE_LIMIT)}", "unit": cell.unit, "value": cell.head}
        if cell.head_range is not None:
            low, high = (format_value(value, cell.unit) for value in cell.head_range)
            entry["range"] = f"{low} – {high}"
        found.append(entry | {"extra": f"{about}: {change_text(cell)}, {verdict_cell(cell).text}"})
    return json.dumps(found, indent=1, allow_nan=False) + "\n"


def _named(cells: Sequence[ComparedCell]) -> Iterator[tuple[str, ComparedCell]]:
    """Cells that the head has a value of, each under a name of its own that stays the same from commit to commit."""
    names = {(cell.cell_id, cell.arm): cell_name(cell) for cell in cells}
    often = Counter(names.values())
    for cell in cells:
        name = names[cell.cell_id, cell.arm]
        if cell.head is not None:
            yield (name if often[name] == 1 else f"{name} ({cell.cell_id})"), cell

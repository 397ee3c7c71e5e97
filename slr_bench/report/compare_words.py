"""What a comparison found, in words: names of cells, changes, verdicts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from slr_bench.compare.direction import is_bigger_better
from slr_bench.compare.judgement import ComparedCell, ComparedMetric
from slr_bench.compare.statistics import MIN_PROCESSES
from slr_bench.compare.summary import DETERMINISTIC
from slr_bench.report.table import Cell, Tone
from slr_bench.units import plain

NAME_LIMIT = 160
"""Characters of a cell's name."""


class Named(Protocol):
    """A cell of a comparison, however much is known of it."""

    @property
    def cell_id(self) -> str: ...
    @property
    def arm(self) -> str: ...
    @property
    def workload(self) -> str: ...
    @property
    def coordinates(self) -> Mapping[str, Any]: ...


def cell_name(cell: Named, limit: int = NAME_LIMIT) -> str:
    """``train_step baseline batch_size=4 precision=fp32``, whatever stands in it as one printable line."""
    values = (
        f"{key.rpartition('.')[2]}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in cell.coordinates.items()
    )
    return plain(" ".join([cell.workload, cell.arm, *values]), limit)


def change_text(found: ComparedCell | ComparedMetric) -> str:
    """``+0.50 %``, ``2.4×``, with the interval or the extremes of the pairs; ``–`` where there is no ratio."""
    if found.ratio is None:
        return "–"
    if found.low is None or found.high is None or found.low == found.high:
        return _ratio_text(found.ratio)
    return f"{_ratio_text(found.ratio)} [{_ratio_text(found.low)}, {_ratio_text(found.high)}]"


def _ratio_text(ratio: float) -> str:
    if not 0.5 < ratio < 2:
        return f"{ratio:.3g}×"
    percent = 100 * (ratio - 1)
    digits = 2 if abs(percent) >= 0.005 or not percent else 5
    return f"{percent:+.{digits}f} %"


def verdict_cell(found: ComparedCell | ComparedMetric) -> Cell:
    """``worse``, ``better``, ``equal``, ``~`` (no significant difference), ``n too small``, ``fault`` or ``not
    comparable``, with the reason as a note.
    """
    if found.is_fault:
        return Cell("fault", plain(found.reason), tone="warn")
    if found.significant is None:
        is_few = found.ratio is not None and found.n < MIN_PROCESSES
        return Cell("n too small" if is_few else "not comparable", plain(found.reason) if found.reason else None)
    if not found.significant:
        return Cell("equal" if found.metric in DETERMINISTIC else "~")
    word, tone = direction(found)
    return Cell(word, tone=tone)


def direction(found: ComparedCell | ComparedMetric) -> tuple[str, Tone]:
    """Of a significant difference: ``worse`` or ``better``."""
    ratio = found.ratio
    if ratio is None and isinstance(found, ComparedCell) and found.base is not None and found.head is not None:
        ratio = 2.0 if found.head > found.base else 0.5
    if ratio is None or ratio == 1:
        return "different", "warn"
    is_worse = (ratio < 1) == is_bigger_better(found.metric, found.unit)
    return ("worse", "bad") if is_worse else ("better", "good")

"""What a comparison found, in words: names of cells, changes, verdicts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Protocol

from slr_bench.compare.judgement import ComparedCell, ComparedMetric, Word, verdict_word
from slr_bench.report.formats.table import Cell, Tone
from slr_bench.units import plain

NAME_LIMIT = 160
"""Characters of a cell's name."""
_TONES: Final[Mapping[Word, Tone]] = {"fault": "warn", "different": "warn", "worse": "bad", "better": "good"}


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
    """The verdict's word, with the reason as a note where there is none on the difference."""
    word = verdict_word(found)
    note = plain(found.reason) if not found.is_judged and found.reason else None
    return Cell(word, note, tone=_TONES.get(word, ""))

"""Records and compared cells as pandas tables, for notebooks and for filtering."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from slr_bench.compare.judgement import ComparedCell, verdict_word
from slr_bench.files import flatten, require_pandas
from slr_bench.record import Record
from slr_bench.units import format_value, plain

if TYPE_CHECKING:
    import pandas

MAX_ROWS = 200
_NAMES = ("cell_id", "arm", "workload", "metric", "unit")
_NUMBERS = ("base", "head", "ratio", "low", "high")


def tabulate(records: Iterable[Record]) -> pandas.DataFrame:
    """Return one row per record.

    The columns are the record's own fields, the setting (``setting.model.size``), the environment
    (``environment.torch``), the phases (``phases.forward_s``) and every metric in its base unit. An unknown value is
    NaN or None, never 0; the record says why it is unknown.
    """
    require_pandas()
    import pandas

    return pandas.DataFrame([_record_row(record) for record in records])


def _record_row(record: Record) -> dict[str, object]:
    row: dict[str, Any] = {
        "cell_id": record.cell_id,
        "side": record.side,
        "repeat": record.repeat,
        "workload": record.workload,
        "outcome": str(record.outcome),
        "reason": record.reason,
        "started_at": record.started_at,
        "duration_s": record.duration_s,
    }
    row |= flatten({"setting": record.setting, "environment": record.environment})
    row |= {f"phases.{name}_s": phase.duration_s for name, phase in record.phases.items()}
    return row | {name: metric.value for name, metric in record.metrics.items()}


def comparison_frame(cells: Iterable[ComparedCell]) -> pandas.DataFrame:
    """Return one row per cell and metric. Unknown values are NaN, a missing verdict is None."""
    require_pandas()
    import pandas

    columns = [*_NAMES, *_NUMBERS, "significant", "n", "reason", "is_fault"]
    frame = pandas.DataFrame([cell.to_dict() for cell in cells], columns=columns)
    return frame.astype(dict.fromkeys(_NUMBERS, "float64") | {"significant": "object"})


def comparison_html(title: str, cells: Sequence[ComparedCell]) -> str:
    """Return a table of at most `MAX_ROWS` rows. Text from configurations and errors is escaped."""
    require_pandas()
    import pandas

    keys = _differing_axes(cells)
    frame = pandas.DataFrame([_texts(cell, keys) for cell in cells[:MAX_ROWS]])
    styled = frame.style.hide(axis="index").format(escape="html").set_caption(escape(plain(title)))
    left = f"<p>{len(cells) - MAX_ROWS} more rows: to_frame()</p>" if len(cells) > MAX_ROWS else ""
    return styled.to_html(exclude_styles=True) + left


def _differing_axes(cells: Sequence[ComparedCell]) -> list[str]:
    """Return the dotted keys of the axes whose values are not the same in all cells."""
    values: dict[str, set[str]] = {}
    for cell in cells:
        for key, value in cell.coordinates.items():
            values.setdefault(key, set()).add(json.dumps(value))
    everywhere = {key for key in values if all(key in cell.coordinates for cell in cells)}
    return [key for key, found in values.items() if len(found) > 1 or key not in everywhere]


def _texts(cell: ComparedCell, keys: Sequence[str]) -> dict[str, str]:
    ratio = "" if cell.ratio is None else f"{cell.ratio:.4g}"
    if cell.ratio is not None and cell.low is not None and cell.low != cell.high:
        ratio = f"{ratio} [{cell.low:.4g}–{cell.high:.4g}]"
    word = verdict_word(cell)
    texts = {
        "workload": cell.workload,
        "arm": cell.arm,
        "setting": axes_assignments({key: cell.coordinates[key] for key in keys if key in cell.coordinates}) or "–",
        "metric": cell.metric,
        "base": format_value(cell.base, cell.unit),
        "head": format_value(cell.head, cell.unit),
        "ratio": ratio,
        "verdict": word if cell.is_judged or not cell.reason else f"{word}: {cell.reason}",
    }
    return {name: plain(text) for name, text in texts.items()}


def axes_assignments(coordinates: Mapping[str, object]) -> str:
    """Return ``size=4 precision=bf16``."""
    return " ".join(
        f"{key.rpartition('.')[2]}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in coordinates.items()
    )

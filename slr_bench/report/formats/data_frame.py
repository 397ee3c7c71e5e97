"""Exports every figure of a run as one long table: one row per cell, run and metric."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from slr_bench.compare.cells import CellSummary
from slr_bench.errors import ConfigError
from slr_bench.files import require_pandas
from slr_bench.grid.description import value_text
from slr_bench.record import Metric, Record
from slr_bench.units import is_number, plain

if TYPE_CHECKING:
    import pandas

_BEFORE: Final = ("workload", "arm", "cell_id", "is_own")
_RUN: Final = ("side", "repeat", "outcome", "reason")
_METRIC: Final = ("metric", "value", "unit", "source", "quality", "unavailable")
_AFTER: Final = ("started_at", "marks", "events")
NOT_RUN: Final = "not run"
UNREADABLE: Final = "unreadable"
Values = dict[str, object]
"""Columns of a row."""


def tidy(cells: Sequence[CellSummary]) -> pandas.DataFrame:
    """Return one row per cell, run and metric, in base units. For a missing value, ``unavailable`` has the reason.

    A run without figures has one row without a metric. A cell without runs has one row with the outcome ``not run``,
    or ``unreadable`` if its records cannot be read. Each axis is a column ``axis.<key>``: of numbers if all its values
    are numbers, else of text.
    """
    require_pandas()
    import pandas

    axes = list(dict.fromkeys(key for cell in cells for key in cell.entry.coordinates))
    columns = [*_BEFORE, *(f"axis.{key}" for key in axes), *_RUN, *_METRIC, *_AFTER]
    frame = pandas.DataFrame([row for cell in cells for row in _rows(cell)], columns=columns, dtype="object")
    kinds = {"is_own": "bool", "repeat": "Int64", "value": "Float64"} | dict.fromkeys(_TEXTS, "string")
    return frame.astype(kinds | {f"axis.{key}": _kind(cells, key) for key in axes})


_TEXTS: Final = tuple(
    name for name in (*_BEFORE, *_RUN, *_METRIC, *_AFTER) if name not in ("is_own", "repeat", "value")
)


def _kind(cells: Sequence[CellSummary], key: str) -> str:
    values = [cell.entry.coordinates[key] for cell in cells if key in cell.entry.coordinates]
    if not all(map(is_number, values)):
        return "string"
    return "Float64" if any(isinstance(value, float) for value in values) else "Int64"


def _rows(cell: CellSummary) -> Iterator[Values]:
    entry = cell.entry
    start: Values = {"workload": entry.workload, "arm": entry.arm, "cell_id": entry.cell_id}
    start |= {"is_own": entry.is_own, "side": cell.side}
    start |= {
        f"axis.{key}": value if is_number(value) or value is None else value_text(value)
        for key, value in entry.coordinates.items()
    }
    if not cell.records:
        why = "; ".join(dict.fromkeys(cell.unreadable))
        yield start | ({"outcome": UNREADABLE, "reason": plain(why)} if why else {"outcome": NOT_RUN})
    for record in cell.records:
        run = start | _run(record)
        yield from (run | _metric(name, metric) for name, metric in record.metrics.items())
        if not record.metrics:
            yield run


def _run(record: Record) -> Values:
    return {
        "repeat": record.repeat,
        "outcome": str(record.outcome),
        "reason": record.reason,
        "started_at": record.started_at,
        "marks": "; ".join(record.marks) or None,
        "events": "; ".join(f"step {event.step}: {event.text}" for event in record.events) or None,
    }


def _metric(name: str, metric: Metric) -> Values:
    return {
        "metric": name,
        "value": metric.value,
        "unit": metric.unit,
        "source": metric.source,
        "quality": metric.quality,
        "unavailable": metric.reason,
    }


def write_csv(cells: Sequence[CellSummary], path: Path) -> None:
    """Write the table as CSV: UTF-8, with a heading; missing values are empty.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        tidy(cells).to_csv(path, index=False, lineterminator="\n")
    except OSError as error:
        raise ConfigError(_cannot_write(path, "--csv", error)) from error


def write_parquet(cells: Sequence[CellSummary], path: Path) -> None:
    """Write the table as Parquet, with types.

    Raises:
        ConfigError: pyarrow is missing, or the file cannot be written.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(
            "--parquet needs pyarrow, which is not installed; pip install 'slr-bench[parquet]', or use --csv"
        )
    try:
        tidy(cells).to_parquet(path, index=False, engine="pyarrow")
    except OSError as error:
        raise ConfigError(_cannot_write(path, "--parquet", error)) from error


def _cannot_write(path: Path, option: str, error: OSError) -> str:
    return f"{option}: cannot write {path}: {error.strerror or error}; choose another file"

"""Every figure of a run as one long table: a row a cell, run and metric."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from slr_bench.compare.cells import CellSummary
from slr_bench.errors import ConfigError
from slr_bench.files import require_pandas
from slr_bench.record import Metric, Record
from slr_bench.report.text.setting import value_text
from slr_bench.units import is_number, plain

if TYPE_CHECKING:
    import pandas

_BEFORE: Final = ("workload", "arm", "cell_id", "is_own")
_RUN: Final = ("side", "repeat", "outcome", "reason")
_METRIC: Final = ("metric", "value", "unit", "source", "quality", "unavailable")
_AFTER: Final = ("started_at", "marks")
NOT_RUN: Final = "not run"
UNREADABLE: Final = "unreadable"


def tidy(cells: Sequence[CellSummary]) -> pandas.DataFrame:
    """One row a cell, run and metric, in base units; an unknown value is missing, ``unavailable`` says why.

    A run without figures has a row without a metric, a cell without runs one with outcome ``not run`` or, where its
    records cannot be read, ``unreadable``. Axes are columns ``axis.<key>``: numbers where every value is one, else
    text.
    """
    require_pandas()
    import pandas

    axes = list(dict.fromkeys(key for cell in cells for key in cell.entry.coordinates))
    columns = [*_BEFORE, *(f"axis.{key}" for key in axes), *_RUN, *_METRIC, *_AFTER]
    frame = pandas.DataFrame([row for cell in cells for row in _rows(cell)], columns=columns, dtype="object")
    kinds: dict[str, Any] = {"is_own": "bool", "repeat": "Int64", "value": "Float64"} | dict.fromkeys(_TEXTS, "string")
    return frame.astype(kinds | {f"axis.{key}": _kind(cells, key) for key in axes})


_TEXTS: Final = tuple(
    name for name in (*_BEFORE, *_RUN, *_METRIC, *_AFTER) if name not in ("is_own", "repeat", "value")
)


def _kind(cells: Sequence[CellSummary], key: str) -> str:
    values = [cell.entry.coordinates[key] for cell in cells if key in cell.entry.coordinates]
    if not all(map(is_number, values)):
        return "string"
    return "Float64" if any(isinstance(value, float) for value in values) else "Int64"


def _rows(cell: CellSummary) -> Iterator[dict[str, Any]]:
    entry = cell.entry
    start: dict[str, Any] = {"workload": entry.workload, "arm": entry.arm, "cell_id": entry.cell_id}
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


def _run(record: Record) -> dict[str, Any]:
    return {
        "repeat": record.repeat,
        "outcome": str(record.outcome),
        "reason": record.reason,
        "started_at": record.started_at,
        "marks": "; ".join(record.marks) or None,
    }


def _metric(name: str, metric: Metric) -> dict[str, Any]:
    return {
        "metric": name,
        "value": metric.value,
        "unit": metric.unit,
        "source": metric.source,
        "quality": metric.quality,
        "unavailable": metric.reason,
    }


def write_csv(cells: Sequence[CellSummary], path: Path) -> None:
    """UTF-8, a heading, missing values empty.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        tidy(cells).to_csv(path, index=False, lineterminator="\n")
    except OSError as error:
        raise ConfigError(_cannot_write(path, "--csv", error)) from error


def write_parquet(cells: Sequence[CellSummary], path: Path) -> None:
    """The same with types.

    Raises:
        ConfigError: pyarrow is missing, or it cannot be written.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(
            "--parquet needs pyarrow, which is not installed; pip install 'slr-bench[parquet]', or take --csv"
        )
    try:
        tidy(cells).to_parquet(path, index=False, engine="pyarrow")
    except OSError as error:
        raise ConfigError(_cannot_write(path, "--parquet", error)) from error


def _cannot_write(path: Path, option: str, error: OSError) -> str:
    return f"{option}: cannot write {path}: {error.strerror or error}; choose another file"

"""Records as one table, to filter and to write into a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from slr_bench.files import flatten
from slr_bench.record import Record

if TYPE_CHECKING:
    import pandas


def tabulate(records: Iterable[Record]) -> pandas.DataFrame:
    """One row a record: its own fields, the setting (``setting.training.batch_size``), the environment
    (``environment.torch``), the phases (``phases.forward_s``), and a column for every metric's value in its base unit.

    An unknown value is NaN or None, never 0; why it is unknown stays in the record.
    """
    import pandas

    return pandas.DataFrame([_row(record) for record in records])


def _row(record: Record) -> dict[str, Any]:
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

"""The Pareto front of memory, time and accuracy as a section."""

from __future__ import annotations

from collections.abc import Sequence

from slr_bench.report.formats.table import Cell, Column, Row, Section, Table, without_empty_columns
from slr_bench.report.run_report.pareto import Field, Point
from slr_bench.report.run_report.scatter import scatter
from slr_bench.report.text.cell_names import anchor, coordinates_text
from slr_bench.report.text.metrics import label
from slr_bench.report.text.words import format_value, plain


def front_section(field: Field | None, arms: Sequence[str]) -> Section | None:
    """The chart, and the cells on the front as a table; None with less than two cells to weigh."""
    if field is None or len(field.points) < 2:
        return None
    front, count = field.front, len(field.points)
    text = (
        f"{len(front)} of {count} cells are beaten by no other in {_what(field)} at once; the grey and the hollow ones "
        f"are.{_but(field)} Times are medians: two that lie within each other's spread may change places."
    )
    rows = tuple(_row(point, field) for point in front)
    table = without_empty_columns(Table("Cells that nothing beats", _columns(field), rows))
    return Section("front", "What nothing beats", (text,), (table,), (scatter(field, arms),))


def _what(field: Field) -> str:
    return "memory, time and accuracy" if field.has_accuracy else "memory and time"


def _but(field: Field) -> str:
    """What the sentence does not hold for: cells that were measured and not trained."""
    known = sum(point.accuracy is not None for point in field.points)
    if not field.has_accuracy or known == len(field.points):
        return ""
    return (
        f" The accuracy is known of {known}; the others are beaten in memory and time alone, and beat none whose "
        "accuracy is known."
    )


def _columns(field: Field) -> tuple[Column, ...]:
    time = "Time per clip" if field.is_per_clip else "Step time"
    numbers = (label(field.memory), time, *(["Accuracy"] if field.has_accuracy else []))
    return (Column("Arm"), Column("Setting"), *(Column(title, numeric=True) for title in numbers))


def _row(point: Point, field: Field) -> Row:
    cells = [
        Cell(plain(point.cell.entry.arm, 40), link=anchor(point.cell)),
        Cell(coordinates_text(point.cell)),
        Cell(format_value(point.memory_bytes, "bytes"), sort=point.memory_bytes),
        Cell(format_value(point.time_s, "s"), sort=point.time_s),
    ]
    cells += [Cell(format_value(point.accuracy, "ratio"), sort=point.accuracy)] if field.has_accuracy else []
    return Row(tuple(cells), strong=point.cell.entry.is_own)

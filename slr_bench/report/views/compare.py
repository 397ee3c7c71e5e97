"""Print a comparison in the terminal, and write it as Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from slr_bench.compare.cells import SideName
from slr_bench.compare.comparison import Comparison, OutcomePair, Unmatched
from slr_bench.compare.judgement import ComparedCell, ComparedMetric, Word, verdict_word
from slr_bench.compare.notebook import axes_assignments
from slr_bench.report.formats.documents import escape_markdown, markdown_table
from slr_bench.report.formats.table import Cell, Column, Row, Table, Tone
from slr_bench.report.formats.terminal import print_notes, print_table
from slr_bench.report.text.wording import label
from slr_bench.units import format_count, format_value, plain

WHOLE: Final = "the output of --json"
"""The place of everything that a comment has no room for."""
COMMENT_LIMIT: Final = 60_000
"""Characters; GitHub accepts 65,536."""
MAIN: Final = ("peak_tensor_bytes", "peak_allocated_bytes", "rss_over_start_bytes", "step_time_s")
"""Metrics that are always shown, beside the headline metrics of the workload."""
_NAME_LIMIT: Final = 160
_MOST_WARNINGS: Final = 20
_LEGEND: Final = "~: no significant difference; n too small: no verdict below 8 pairs."
_TONES: Final[Mapping[Word, Tone]] = {"fault": "warn", "different": "warn", "worse": "bad", "better": "good"}
_VALUE_COLUMNS: Final = (Column("Base", True), Column("Head", True), Column("Change", True), Column("Verdict"))
_CELL_COLUMNS: Final = (Column("Cell"), Column("Metric"), *_VALUE_COLUMNS)


@dataclass(frozen=True)
class Notice:
    """A note to read before the tables, with the cells it applies to."""

    text: str
    cells: tuple[str, ...] = ()


def title(comparison: Comparison) -> str:
    """Return the names of base and head."""
    return f"{plain(comparison.base, 80)} → {plain(comparison.head, 80)}"


def print_comparison(comparison: Comparison, console: Console, show_all: bool = False) -> None:
    """Print the table over all cells, then the main metrics and all differences per cell, or everything."""
    console.print(Text(title(comparison), style="bold"))
    print_warnings(comparison, console)
    overall = overall_table(comparison)
    print_table(overall, console)
    shown = list(comparison.cells) if show_all else [cell for cell in comparison.cells if _is_notable(cell)]
    print_tables(tables_by_cell(shown), console, overall)
    left = len(comparison.cells) - len(shown)
    console.print(Text(_LEGEND + (f" {left} further rows do not differ: --all" if left else ""), style="dim"))


def print_tables(tables: Sequence[Table], console: Console, above: Table | None = None) -> None:
    """Print several tables, then their footnotes, except for those already printed below the table ``above``."""
    printed = above.notes if above else {}
    rows = tuple(row for data in (*([above] if above else ()), *tables) for row in data.rows)
    notes = Table("", (), rows).notes
    for data in tables:
        print_table(data, console, notes)
    print_notes({note: number for note, number in notes.items() if note not in printed}, console)


def print_warnings(comparison: Comparison, console: Console, shown: Collection[Unmatched] = ()) -> None:
    """Print the notices, each with its cells below it. Cells in ``shown`` are printed elsewhere."""
    found = warnings(comparison, shown)
    for warning in found[:_MOST_WARNINGS]:
        console.print(Text(f"Note: {warning.text}", style="yellow"))
        for name in warning.cells[:_MOST_WARNINGS]:
            console.print(Padding(Text(f"- {name}", style="yellow"), (0, 0, 0, 2), expand=False))
        if len(warning.cells) > _MOST_WARNINGS:
            console.print(Text(f"  and {len(warning.cells) - _MOST_WARNINGS} more: --json", style="yellow"))
    if len(found) > _MOST_WARNINGS:
        console.print(Text(f"Note: {len(found) - _MOST_WARNINGS} further notes: --json", style="yellow"))


def comparison_markdown(comparison: Comparison) -> str:
    """Return the comparison as GitHub-flavoured Markdown. Differences are shown, the rest is folded."""
    different = [cell for cell in comparison.cells if cell.is_significant or cell.is_fault]
    parts = [
        f"### {escape_markdown(title(comparison))}",
        *markdown_warnings(comparison),
        markdown_table(overall_table(comparison), WHOLE),
    ]
    if different:
        parts.append(markdown_table(cell_table("Cells that differ", different), WHOLE))
    parts.append(folded("Cell by cell", markdown_table(cell_table("All cells", comparison.cells), WHOLE)))
    return comment([*parts, escape_markdown(_LEGEND)])


def comment(parts: Sequence[str]) -> str:
    """Join the parts to one document. Parts that make it too long for a comment are left out."""
    kept: list[str] = []
    room = COMMENT_LIMIT
    for part in parts:
        room -= len(part) + 2
        if room >= 0:
            kept.append(part)
    if len(kept) < len(parts):
        kept.append(f"{len(parts) - len(kept)} parts are too long for a comment; {WHOLE} has all.")
    return "\n\n".join(kept) + "\n"


def markdown_warnings(comparison: Comparison, shown: Collection[Unmatched] = ()) -> list[str]:
    """Return the notices as quotes."""
    found = warnings(comparison, shown)
    lines = [f"> {escape_markdown(_in_a_line(warning))}" for warning in found[:_MOST_WARNINGS]]
    return [*lines, f"> {len(found) - _MOST_WARNINGS} further notes"] if len(found) > _MOST_WARNINGS else lines


def _in_a_line(warning: Notice) -> str:
    if not warning.cells:
        return warning.text
    left = len(warning.cells) - _MOST_WARNINGS
    return f"{warning.text}: {', '.join(warning.cells[:_MOST_WARNINGS])}" + (f" and {left} more" if left > 0 else "")


def folded(summary: str, body: str) -> str:
    """Return a part that GitHub folds. ``summary`` must be text of slr-bench itself, because it is not escaped."""
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def metric_name(row: ComparedCell | ComparedMetric) -> str:
    """Return the metric's name for people, shortened."""
    return plain(label(row.metric, row.description), 60)


def cell_name(cell: ComparedCell | OutcomePair | Unmatched, limit: int = _NAME_LIMIT) -> str:
    """Return a printable name in one line, such as ``my_step baseline size=4 precision=fp32``."""
    return plain(f"{cell.workload} {cell.arm} {axes_assignments(cell.coordinates)}", limit)


def change_text(found: ComparedCell | ComparedMetric) -> str:
    """Return ``+0.50 %`` or ``2.4×`` with the interval or the extremes of the pairs; ``–`` if there is no ratio."""
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
    """Return the verdict as a word; if there is no verdict, the reason is its footnote."""
    word = verdict_word(found)
    note = plain(found.reason) if not found.is_judged and found.reason else None
    return Cell(word, note, tone=_TONES.get(word, ""))


def overall_table(comparison: Comparison) -> Table:
    """Return one row per workload and metric."""
    rows = []
    for found in comparison.overall:
        names = Cell(plain(found.workload, 60)), Cell(metric_name(found))
        count = Cell(f"{found.different} of {found.cells} cells" if found.cells else "–")
        rows.append(Row((*names, Cell(change_text(found), sort=found.ratio), verdict_cell(found), count)))
    columns = (Column("Workload"), Column("Metric"), *_VALUE_COLUMNS[2:], Column("Differ", True, spare=True))
    return Table("Over all cells", columns, tuple(rows))


def cell_table(caption: str, cells: Iterable[ComparedCell]) -> Table:
    """Return one row per cell and metric with the values of both sides, whether they compare or not."""
    return Table(caption, _CELL_COLUMNS, tuple(Row(cell_row(cell)) for cell in cells))


def cell_row(cell: ComparedCell) -> tuple[Cell, ...]:
    """Return the row of `cell_table`."""
    base, head = value_texts(cell)
    return (
        Cell(cell_name(cell)),
        Cell(metric_name(cell)),
        Cell(base, sort=cell.base),
        Cell(head, sort=cell.head),
        Cell(change_text(cell), sort=cell.ratio),
        verdict_cell(cell),
    )


def value_texts(cell: ComparedCell) -> tuple[str, str]:
    """Return both values; in single bytes if they differ by less than the rounding shows."""
    base, head = format_value(cell.base, cell.unit), format_value(cell.head, cell.unit)
    if cell.unit == "bytes" and base == head and cell.base != cell.head:
        return f"{cell.base:,.0f} B", f"{cell.head:,.0f} B"
    return base, head


def tables_by_cell(cells: Sequence[ComparedCell]) -> list[Table]:
    """Return one table per cell with one row per metric. It is narrower than `cell_table`."""
    groups: dict[tuple[str, str], list[ComparedCell]] = {}
    for cell in cells:
        groups.setdefault((cell.cell_id, cell.arm), []).append(cell)
    return [
        Table(cell_name(group[0]), _CELL_COLUMNS[1:], tuple(Row(cell_row(cell)[1:]) for cell in group))
        for group in groups.values()
    ]


def _is_notable(cell: ComparedCell) -> bool:
    if cell.metric in MAIN or cell.is_significant or cell.is_fault:
        return True
    headline = {metric.metric for metric in cell.description.headline}
    return cell.metric in headline | {cell.description.accuracy_metric}


def warnings(comparison: Comparison, shown: Collection[Unmatched] = ()) -> list[Notice]:
    """Return what to know before the tables: cells of one side, interference, and files that are no records."""
    disturbed = sum(pair.disturbed for pair in comparison.outcomes)
    unmatched: dict[tuple[SideName, str], list[str]] = {}
    for cell in comparison.unmatched:
        if cell not in shown and not _is_explained_by_twin(cell, comparison.unmatched):
            unmatched.setdefault((cell.side, cell.reason or ""), []).append(f"{cell_name(cell)} ({cell.cell_id})")
    found = [_unmatched_notice(side, reason, names) for (side, reason), names in unmatched.items()]
    if disturbed:
        runs = format_count(disturbed, "run")
        found.append(Notice(f"interference in {runs}: byte counts are still valid, timings are not"))
    return [*found, *(Notice(plain(text)) for text in comparison.problems)]


def _is_explained_by_twin(cell: Unmatched, others: Sequence[Unmatched]) -> bool:
    """Return whether a cell of the base, with the same setting or name, explains why the head's cell is unmatched."""
    return cell.side == "head" and any(
        one.side == "base"
        and one.reason is not None
        and one.workload == cell.workload
        and (one.cell_id == cell.cell_id or (one.arm, one.coordinates) == (cell.arm, cell.coordinates))
        for one in others
    )


def _unmatched_notice(side: SideName, reason: str, names: Sequence[str]) -> Notice:
    why = f": {plain(reason)}" if reason else ""
    if len(names) == 1:
        return Notice(plain(f"only the {side} has {names[0]}{why}"))
    return Notice(f"only the {side} has {len(names)} cells{why}", tuple(names))

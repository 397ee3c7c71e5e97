"""A comparison in the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from slr_bench.compare.comparison import Comparison, Unmatched
from slr_bench.report.formats.markdown import escape, table
from slr_bench.report.formats.table import Table
from slr_bench.report.formats.terminal import print_notes, print_table
from slr_bench.report.text.words import plain
from slr_bench.report.views.compare_tables import Notice, cell_table, notable, overall_table, tables_by_cell, warnings

_LEGEND = "~: no significant difference; n too small: no verdict below 8 pairs."
COMMENT_LIMIT = 60_000
"""Characters; GitHub takes 65,536."""
WHOLE = "the output of --json"
"""Where that is which a page has no room for."""
_MOST_WARNINGS = 20


def title(comparison: Comparison) -> str:
    """Base and head by name."""
    return f"{plain(comparison.base, 80)} → {plain(comparison.head, 80)}"


def print_comparison(comparison: Comparison, console: Console, show_all: bool = False) -> None:
    """Over all cells, then cell by cell: the main metrics and what differs, or all."""
    console.print(Text(title(comparison), style="bold"))
    print_warnings(comparison, console)
    overall = overall_table(comparison)
    print_table(overall, console)
    shown = list(comparison.cells) if show_all else notable(comparison.cells)
    print_tables(tables_by_cell(shown), console, overall)
    left = len(comparison.cells) - len(shown)
    console.print(Text(_LEGEND + (f" {left} further rows do not differ: --all" if left else ""), style="dim"))


def print_tables(tables: Sequence[Table], console: Console, above: Table | None = None) -> None:
    """Several tables, and after them the footnotes of all but those that already stand under the table ``above``."""
    told = above.notes if above else {}
    rows = tuple(row for data in (*([above] if above else ()), *tables) for row in data.rows)
    notes = Table("", (), rows).notes
    for data in tables:
        print_table(data, console, notes)
    print_notes({note: number for note, number in notes.items() if note not in told}, console)


def print_warnings(comparison: Comparison, console: Console, told: Collection[Unmatched] = ()) -> None:
    """What to know before the figures, each once with its cells below it."""
    found = warnings(comparison, told)
    for warning in found[:_MOST_WARNINGS]:
        console.print(Text(f"Note: {warning.text}", style="yellow"))
        for name in warning.cells[:_MOST_WARNINGS]:
            console.print(Padding(Text(f"- {name}", style="yellow"), (0, 0, 0, 2), expand=False))
        if len(warning.cells) > _MOST_WARNINGS:
            console.print(Text(f"  and {len(warning.cells) - _MOST_WARNINGS} more: --json", style="yellow"))
    if len(found) > _MOST_WARNINGS:
        console.print(Text(f"Note: {len(found) - _MOST_WARNINGS} further notes: --json", style="yellow"))


def comparison_markdown(comparison: Comparison) -> str:
    """The whole as GitHub-flavoured Markdown: what differs is shown, the rest folded."""
    different = [cell for cell in comparison.cells if cell.is_significant or cell.is_fault]
    parts = [
        f"### {escape(title(comparison))}",
        *markdown_warnings(comparison),
        table(overall_table(comparison), WHOLE),
    ]
    if different:
        parts.append(table(cell_table("Cells that differ", different), WHOLE))
    parts.append(folded("Cell by cell", table(cell_table("All cells", comparison.cells), WHOLE)))
    return comment([*parts, escape(_LEGEND)])


def comment(parts: Sequence[str]) -> str:
    """The parts as one document; what would make it too long for a comment is left out, the later parts first."""
    kept: list[str] = []
    room = COMMENT_LIMIT
    for part in parts:
        room -= len(part) + 2
        if room >= 0:
            kept.append(part)
    if len(kept) < len(parts):
        kept.append(f"{len(parts) - len(kept)} parts are too long for a comment; {WHOLE} has all.")
    return "\n\n".join(kept) + "\n"


def markdown_warnings(comparison: Comparison, told: Collection[Unmatched] = ()) -> list[str]:
    """The notes as quotes."""
    found = warnings(comparison, told)
    shown = [f"> {escape(_in_a_line(warning))}" for warning in found[:_MOST_WARNINGS]]
    return [*shown, f"> {len(found) - _MOST_WARNINGS} further notes"] if len(found) > _MOST_WARNINGS else shown


def _in_a_line(warning: Notice) -> str:
    if not warning.cells:
        return warning.text
    left = len(warning.cells) - _MOST_WARNINGS
    return f"{warning.text}: {', '.join(warning.cells[:_MOST_WARNINGS])}" + (f" and {left} more" if left > 0 else "")


def folded(summary: str, body: str) -> str:
    """A part that GitHub shows when it is opened; ``summary`` is this program's own text."""
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"

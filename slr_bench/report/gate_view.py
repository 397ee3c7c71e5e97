"""The gate's answer in the terminal and as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from rich.console import Console
from rich.text import Text

from slr_bench.compare.cell_rule import CellVerdict
from slr_bench.compare.gate import GateResult, GateVerdict, RuleResult
from slr_bench.compare.matching import Ends
from slr_bench.report.compare_tables import cell_row, cell_table
from slr_bench.report.compare_words import cell_name
from slr_bench.report.comparison_view import (
    WHOLE,
    comment,
    folded,
    markdown_warnings,
    print_tables,
    print_warnings,
    title,
)
from slr_bench.report.markdown import escape, table
from slr_bench.report.table import Cell, Column, Row, Table, Tone
from slr_bench.report.terminal import print_table
from slr_bench.report.words import plain

_WORDS: Final[dict[GateVerdict, tuple[str, str, str]]] = {
    "pass": ("passed", "green", "✅"),
    "regression": ("REGRESSION", "bold red", "❌"),
    "crashed": ("A CELL CRASHED", "bold red", "❌"),
    "not comparable": ("NOT COMPARABLE", "bold yellow", "⚠️"),
}
_TONES: Final[dict[str, Tone]] = {"fail": "bad", "not comparable": "warn", "skipped": "warn", "pass": ""}
RENEW: Final = "baseline can be renewed"


def headline(result: GateResult) -> str:
    """The verdict in a line: what broke, and whether something got better."""
    broken = sum(one.verdict == "fail" for one in result.rules)
    parts = [f"{broken} of {len(result.rules)} rules broken"]
    parts += [f"{len(cells)} {word}" for cells, word in _counted(result) if cells]
    if result.better:
        parts.append(f"{len(result.better)} better: {RENEW}")
    return f"{_WORDS[result.verdict][0]}: {', '.join(parts)} (exit code {result.exit_code})"


def _counted(result: GateResult) -> Iterable[tuple[tuple[object, ...], str]]:
    return (
        (result.missing, "cells missing"),
        (result.no_longer, "cells out of memory"),
        (result.comparison.crashed, "cells crashed"),
    )


def print_gate(result: GateResult, console: Console) -> None:
    """Verdict, rules, and the cells behind them."""
    console.print(Text(title(result.comparison), style="bold"))
    print_warnings(result.comparison, console)
    print_table(rules_table(result), console)
    for caption, cells in _groups(result):
        console.print(Text(caption, style="bold"))
        print_tables([ruled_table(cell_name(own[0].row), own, named=False) for own in _by_cell(cells)], console)
    for data in _end_tables(result):
        print_table(data, console)
    console.print(Text(headline(result), style=_WORDS[result.verdict][1]))


def gate_markdown(result: GateResult) -> str:
    """Short enough for a comment: verdict and rules are shown with the cells that broke one, the rest is folded."""
    mark = _WORDS[result.verdict][2]
    parts = [
        f"### {mark} {escape(headline(result))}",
        escape(title(result.comparison)),
        table(rules_table(result), WHOLE),
    ]
    parts += [table(ruled_table(caption, cells), WHOLE) for caption, cells in _groups(result)]
    parts += [table(data, WHOLE) for data in _end_tables(result)]
    parts += markdown_warnings(result.comparison)
    for ruling, caption in (("kept", "Cells within their limits"), ("unjudged", "Cells that optional rules skipped")):
        rules = [one for one in result.rules if ruling == "kept" or one.rule.optional]
        cells = [cell for one in rules for cell in one.cells if cell.ruling == ruling]
        parts += [folded(caption, table(ruled_table(caption, cells), WHOLE))] if cells else []
    return comment(parts)


def no_verdict(reason: str, exit_code: int) -> str:
    """The line in place of a verdict, where the gate ended by an error."""
    return f"NO VERDICT: {plain(reason, 600)} (exit code {exit_code})"


def no_verdict_markdown(text: str) -> str:
    """The page in place of `gate_markdown`."""
    return f"### ⚠️ {escape(text)}\n"


def rules_table(result: GateResult) -> Table:
    """One row a rule."""
    columns = (Column("Rule"), Column("Verdict"), Column("Broken", numeric=True), Column("Cells", numeric=True))
    rows = (Row(_rule_row(one), strong=one.verdict == "fail") for one in result.rules)
    return Table("Rules", columns, tuple(rows))


def _rule_row(result: RuleResult) -> tuple[Cell, ...]:
    why = result.reason or next((_why(cell) for cell in result.of("unjudged")), None)
    note = plain(why) if result.verdict in ("not comparable", "skipped") and why else None
    better = len(result.of("better"))
    return (
        Cell(plain(result.rule.text, 80)),
        Cell(result.verdict, note, tone=_TONES[result.verdict]),
        Cell(str(len(result.of("broken")))),
        Cell(f"{len(result.cells)}" + (f", {better} better" if better else "")),
    )


def _why(cell: CellVerdict) -> str | None:
    return cell.reason or cell.row.reason


def _groups(result: GateResult) -> list[tuple[str, list[CellVerdict]]]:
    """Cells that a reader must see: what broke a rule, what got better, what could not be judged and must be."""
    required = [one for one in result.rules if not one.rule.optional]
    groups = [
        ("Worse than the rules allow", [cell for one in result.rules for cell in one.of("broken")]),
        (f"Better: the {RENEW}", list(result.better)),
        ("Not judged", [cell for one in required for cell in one.of("unjudged")]),
    ]
    return [(caption, cells) for caption, cells in groups if cells]


def _by_cell(cells: Iterable[CellVerdict]) -> list[list[CellVerdict]]:
    found: dict[tuple[str, str], list[CellVerdict]] = {}
    for cell in cells:
        found.setdefault((cell.row.cell_id, cell.row.arm), []).append(cell)
    return list(found.values())


def _end_tables(result: GateResult) -> list[Table]:
    found = []
    if result.missing:
        columns = (Column("Cell"), Column("Id"), Column("What became of it"))
        rows = (
            Row((Cell(cell_name(cell)), Cell(cell.cell_id), Cell(plain(cell.reason or "–")))) for cell in result.missing
        )
        found.append(Table("Missing in the head (--allow-missing PATTERN lets it lack them)", columns, tuple(rows)))
    for ends, caption in (
        (result.no_longer, "Out of memory in the head"),
        (result.comparison.crashed, "Crashed in the head"),
    ):
        found += [_ends_table(caption, ends)] if ends else []
    return found


def ruled_table(caption: str, cells: Iterable[CellVerdict], *, named: bool = True) -> Table:
    """Rows of cells; what a rule says of one stands in place of the comparison's own verdict."""
    rows = []
    for cell in cells:
        *values, verdict = cell_row(cell.row)
        rows.append(Row((*values, _ruling_cell(cell, verdict))[0 if named else 1 :]))
    return Table(caption, cell_table(caption, ()).columns[0 if named else 1 :], tuple(rows))


def _ruling_cell(cell: CellVerdict, verdict: Cell) -> Cell:
    """``worse``, ``better``, ``within`` the limit though different; else what the comparison says."""
    note = plain(cell.reason) if cell.reason else verdict.note
    if cell.ruling == "broken":
        return Cell("worse", note, tone="bad")
    if cell.ruling == "better":
        return Cell("better", note, tone="good")
    return Cell("within" if cell.ruling == "kept" and cell.row.significant else verdict.text, note)


def _ends_table(caption: str, cells: Iterable[Ends]) -> Table:
    columns = (Column("Cell"), Column("Base"), Column("Head"))
    rows = (
        Row((Cell(cell_name(cell)), Cell(_counts(cell.base)), Cell(_counts(cell.head), plain(cell.reason))))
        for cell in cells
    )
    return Table(caption, columns, tuple(rows))


def _counts(outcomes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()) or "–"

"""Print the verdict of the gate in the terminal, and write it as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from rich.console import Console
from rich.text import Text

from slr_bench.compare.comparison import OutcomePair
from slr_bench.compare.gate import CellVerdict, GateResult, GateVerdict, RuleResult
from slr_bench.report.formats.documents import escape_markdown, markdown_table
from slr_bench.report.formats.table import Cell, Column, Row, Table, Tone
from slr_bench.report.formats.terminal import Listing, by_note, print_listings, print_table
from slr_bench.report.views.compare import (
    WHOLE,
    cell_name,
    cell_row,
    cell_table,
    change_text,
    comment,
    folded,
    markdown_warnings,
    metric_name,
    print_tables,
    print_warnings,
    title,
    value_texts,
)
from slr_bench.units import plain

WORDS: Final[Mapping[GateVerdict, tuple[str, str, str]]] = {
    "pass": ("passed", "green", "✅"),
    "regression": ("REGRESSION", "bold red", "❌"),
    "crashed": ("A CELL CRASHED", "bold red", "❌"),
    "not comparable": ("NOT COMPARABLE", "bold yellow", "⚠️"),
}
"""Word, colour and mark of each verdict."""
RENEW: Final = "baseline can be renewed"
_TONES: Final[dict[str, Tone]] = {"fail": "bad", "not comparable": "warn", "skipped": "warn", "pass": ""}
_MISSING: Final = "Missing in the head (allow it with --allow-missing PATTERN)"
_NOT_JUDGED: Final = "Not judged"


def print_gate(result: GateResult, console: Console) -> None:
    """Print the rules, the cells behind their verdicts, and the verdict of the gate."""
    console.print(Text(title(result.comparison), style="bold"))
    print_warnings(result.comparison, console, result.missing)
    print_table(rules_table(result), console)
    for caption, cells in _groups(result):
        if caption != _NOT_JUDGED:
            console.print(Text(caption, style="bold"))
            print_tables([ruled_table(cell_name(own[0].row), own, named=False) for own in _by_cell(cells)], console)
    print_listings(_listings(result), console)
    console.print(Text(headline(result), style=look(result)[0]))


def gate_markdown(result: GateResult) -> str:
    """Return a page that fits into a comment: verdict, rules and the cells that broke one; the rest is folded."""
    mark = look(result)[1]
    parts = [
        f"### {mark} {escape_markdown(headline(result))}",
        escape_markdown(title(result.comparison)),
        markdown_table(rules_table(result), WHOLE),
    ]
    parts += [markdown_table(ruled_table(caption, cells), WHOLE) for caption, cells in _groups(result)]
    parts += [markdown_table(data, WHOLE) for data in _failure_tables(result)]
    parts += markdown_warnings(result.comparison, result.missing)
    for ruling, caption in (("kept", "Cells within their limits"), ("unjudged", "Cells that optional rules skipped")):
        rules = [one for one in result.rules if ruling == "kept" or one.rule.optional]
        cells = [cell for one in rules for cell in one.cells if cell.ruling == ruling]
        parts += [folded(caption, markdown_table(ruled_table(caption, cells), WHOLE))] if cells else []
    return comment(parts)


def no_verdict_markdown(text: str) -> str:
    """Return the page that replaces `gate_markdown` if the gate ended with an error."""
    return f"### ⚠️ {escape_markdown(text)}\n"


def rules_table(result: GateResult) -> Table:
    """Return one row per rule."""
    counts = (Column(name, True) for name in ("Broken", "Not judged", "Cells"))
    columns = (Column("Rule"), Column("Verdict"), *counts)
    rows = (Row(_rule_row(one), strong=one.verdict == "fail") for one in result.rules)
    return Table("Rules", columns, tuple(rows))


def _rule_row(result: RuleResult) -> tuple[Cell, ...]:
    unjudged = result.with_ruling("unjudged")
    why = result.reason
    if result.rule.optional and unjudged:  # for other rules the cells are listed with their reasons
        why = _reason(unjudged[0])
    note = plain(why) if result.verdict in ("not comparable", "skipped") and why else None
    better = len(result.with_ruling("better"))
    return (
        Cell(plain(result.rule.text, 80)),
        Cell(result.verdict, note, tone=_TONES[result.verdict]),
        Cell(str(len(result.with_ruling("broken")))),
        Cell(str(len(unjudged)) if result.cells else "all"),
        Cell(f"{len(result.cells)}" + (f", {better} better" if better else "")),
    )


def _reason(cell: CellVerdict) -> str | None:
    return cell.reason or cell.row.reason


def _groups(result: GateResult) -> list[tuple[str, list[CellVerdict]]]:
    """Return the cells that broke a rule, that improved, and that a required rule could not judge."""
    required = [one for one in result.rules if not one.rule.optional]
    groups = [
        ("Worse than the rules allow", [cell for one in result.rules for cell in one.with_ruling("broken")]),
        (f"Better: the {RENEW}", list(result.better)),
        (_NOT_JUDGED, [cell for one in required for cell in one.with_ruling("unjudged")]),
    ]
    return [(caption, cells) for caption, cells in groups if cells]


def _by_cell(cells: Iterable[CellVerdict]) -> list[list[CellVerdict]]:
    found: dict[tuple[str, str], list[CellVerdict]] = {}
    for cell in cells:
        found.setdefault((cell.row.cell_id, cell.row.arm), []).append(cell)
    return list(found.values())


def _listings(result: GateResult) -> list[Listing]:
    """Return what has no two values to show, grouped by reason."""
    unjudged = [(_unjudged_line(cell), _reason(cell)) for cell in dict(_groups(result)).get(_NOT_JUDGED, ())]
    gone = [(f"{cell_name(cell)} ({cell.cell_id})", cell.reason) for cell in result.missing]
    found = [(_NOT_JUDGED, unjudged), (_MISSING, gone)]
    for pairs, caption in _failed_outcomes(result):
        lines = (f"{cell_name(cell)}: base {_counts(cell.base)}, head {_counts(cell.head)}" for cell in pairs)
        found.append((caption, list(zip(lines, (cell.reason for cell in pairs), strict=True))))
    return [
        by_note(caption, [(line, plain(why) if why else None) for line, why in items])
        for caption, items in found
        if items
    ]


def _unjudged_line(cell: CellVerdict) -> str:
    base, head = value_texts(cell.row)
    change = f", {change_text(cell.row)}" if cell.row.ratio is not None else ""
    return f"{cell_name(cell.row)}: {metric_name(cell.row)} {base} → {head}{change}"


def _failed_outcomes(result: GateResult) -> tuple[tuple[tuple[OutcomePair, ...], str], ...]:
    return (result.no_longer, "Out of memory in the head"), (result.comparison.crashed, "Crashed in the head")


def _failure_tables(result: GateResult) -> list[Table]:
    found = []
    if result.missing:
        columns = (Column("Cell"), Column("Id"), Column("Reason"))
        rows = (
            Row((Cell(cell_name(cell)), Cell(cell.cell_id), Cell(plain(cell.reason or "–")))) for cell in result.missing
        )
        found.append(Table(_MISSING, columns, tuple(rows)))
    for pairs, caption in _failed_outcomes(result):
        found += [_outcome_table(caption, pairs)] if pairs else []
    return found


def ruled_table(caption: str, cells: Iterable[CellVerdict], *, named: bool = True) -> Table:
    """Return rows of cells in which the ruling replaces the verdict of the comparison."""
    rows = []
    for cell in cells:
        *values, verdict = cell_row(cell.row)
        rows.append(Row((*values, _ruling_cell(cell, verdict))[0 if named else 1 :]))
    return Table(caption, cell_table(caption, ()).columns[0 if named else 1 :], tuple(rows))


def _ruling_cell(cell: CellVerdict, verdict: Cell) -> Cell:
    """Return ``worse``, ``better``, ``within`` (different, but within the limit), or the comparison's verdict."""
    note = plain(cell.reason) if cell.reason else verdict.note
    if cell.ruling == "broken":
        return Cell("worse", note, tone="bad")
    if cell.ruling == "better":
        return Cell("better", note, tone="good")
    return Cell("within" if cell.ruling == "kept" and cell.row.is_significant else verdict.text, note)


def _outcome_table(caption: str, cells: Iterable[OutcomePair]) -> Table:
    columns = (Column("Cell"), Column("Base"), Column("Head"))
    rows = (
        Row((Cell(cell_name(cell)), Cell(_counts(cell.base)), Cell(_counts(cell.head), plain(cell.reason))))
        for cell in cells
    )
    return Table(caption, columns, tuple(rows))


def _counts(outcomes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()) or "–"


def headline(result: GateResult) -> str:
    """Return the verdict in one line: the number of broken rules, failed cells and improvements."""
    broken = sum(one.verdict == "fail" for one in result.rules)
    parts = [f"{broken} of {len(result.rules)} rules broken", *_left_open(result)]
    parts += [
        f"{len(cells)} {'cell' if len(cells) == 1 else 'cells'} {word}"
        for cells, word in _failed_cells(result)
        if cells
    ]
    if result.better:
        parts.append(f"{len(result.better)} better: {RENEW}")
    return f"{WORDS[result.verdict][0]}: {', '.join(parts)} (exit code {result.exit_code})"


def _left_open(result: GateResult) -> Iterable[str]:
    """Count the rules that could not be evaluated in any cell, and those that could not be in some."""
    judged = [len(one.cells) - len(one.with_ruling("unjudged")) for one in result.rules]
    nowhere = judged.count(0)
    in_part = sum(bool(count and one.with_ruling("unjudged")) for count, one in zip(judged, result.rules, strict=True))
    return [f"{count} {words}" for count, words in ((nowhere, "not judged"), (in_part, "judged in part")) if count]


def look(result: GateResult) -> tuple[str, str]:
    """Return colour and mark of the verdict. A gate that passed because it could judge nothing is not green."""
    is_empty = all(len(one.with_ruling("unjudged")) == len(one.cells) for one in result.rules)
    return WORDS["not comparable" if result.verdict == "pass" and is_empty else result.verdict][1:]


def _failed_cells(result: GateResult) -> Iterable[tuple[tuple[object, ...], str]]:
    return (
        (result.missing, "missing"),
        (result.no_longer, "out of memory"),
        (result.comparison.crashed, "crashed"),
    )


def no_verdict(reason: str, exit_code: int) -> str:
    """Return the line that replaces the verdict if the gate ended with an error."""
    return f"NO VERDICT: {plain(reason, 600)} (exit code {exit_code})"

"""Compared cells as an HTML table in a notebook. Whatever a configuration or an error says is text in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from slr_bench.compare.judgement import ComparedCell
from slr_bench.compare.verdict import verdict_word
from slr_bench.units import format_value, plain

MAX_ROWS = 200
_HEADINGS = ("cell", "arm", "workload", "metric", "base", "head", "ratio", "verdict")


def as_html(title: str, cells: Sequence[ComparedCell]) -> str:
    """A table of at most `MAX_ROWS` rows."""
    rows = "".join(_row("td", _texts(cell)) for cell in cells[:MAX_ROWS])
    left = f"<p>{len(cells) - MAX_ROWS} more rows: to_frame()</p>" if len(cells) > MAX_ROWS else ""
    head = _row("th", _HEADINGS)
    caption = f"<caption>{_safe(title)}</caption>"
    return f"<table>{caption}<thead>{head}</thead><tbody>{rows}</tbody></table>{left}"


def _row(tag: str, texts: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{_safe(text)}</{tag}>' for text in texts)}</tr>"


def _safe(text: str) -> str:
    return escape(plain(text))


def _texts(cell: ComparedCell) -> tuple[str, ...]:
    ratio = "" if cell.ratio is None else f"{cell.ratio:.4g}"
    if cell.ratio is not None and cell.low is not None and cell.low != cell.high:
        ratio = f"{ratio} [{cell.low:.4g}–{cell.high:.4g}]"
    values = (format_value(value, cell.unit) for value in (cell.base, cell.head))
    return (cell.cell_id, cell.arm, cell.workload, cell.metric, *values, ratio, _verdict(cell))


def _verdict(cell: ComparedCell) -> str:
    word = verdict_word(cell)
    return f"{word}: {cell.reason}" if cell.significant is None and cell.reason else word

"""Compared cells as an HTML table in a notebook. Whatever a configuration or an error says is text in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape

from slr_bench.compare.judgement import ComparedCell
from slr_bench.compare.verdict import verdict_word
from slr_bench.units import format_value, plain

MAX_ROWS = 200
_HEADINGS = ("workload", "arm", "setting", "metric", "base", "head", "ratio", "verdict")


def as_html(title: str, cells: Sequence[ComparedCell]) -> str:
    """A table of at most `MAX_ROWS` rows."""
    keys = differing_axes(cells)
    rows = "".join(_row("td", _texts(cell, keys)) for cell in cells[:MAX_ROWS])
    left = f"<p>{len(cells) - MAX_ROWS} more rows: to_frame()</p>" if len(cells) > MAX_ROWS else ""
    head = _row("th", _HEADINGS)
    caption = f"<caption>{_safe(title)}</caption>"
    return f"<table>{caption}<thead>{head}</thead><tbody>{rows}</tbody></table>{left}"


def differing_axes(cells: Sequence[ComparedCell]) -> list[str]:
    """Dotted keys of the axes whose values are not the same in all cells."""
    values: dict[str, set[str]] = {}
    for cell in cells:
        for key, value in cell.coordinates.items():
            values.setdefault(key, set()).add(json.dumps(value))
    everywhere = {key for key in values if all(key in cell.coordinates for cell in cells)}
    return [key for key, found in values.items() if len(found) > 1 or key not in everywhere]


def setting_text(cell: ComparedCell, keys: Sequence[str]) -> str:
    """``batch_size=4 precision=bf16``; ``–`` where none of the axes made the cell."""
    values = ((key, cell.coordinates[key]) for key in keys if key in cell.coordinates)
    texts = (
        f"{key.rpartition('.')[2]}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values
    )
    return " ".join(texts) or "–"


def _row(tag: str, texts: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{_safe(text)}</{tag}>' for text in texts)}</tr>"


def _safe(text: str) -> str:
    return escape(plain(text))


def _texts(cell: ComparedCell, keys: Sequence[str]) -> tuple[str, ...]:
    ratio = "" if cell.ratio is None else f"{cell.ratio:.4g}"
    if cell.ratio is not None and cell.low is not None and cell.low != cell.high:
        ratio = f"{ratio} [{cell.low:.4g}–{cell.high:.4g}]"
    values = (format_value(value, cell.unit) for value in (cell.base, cell.head))
    return (cell.workload, cell.arm, setting_text(cell, keys), cell.metric, *values, ratio, _verdict(cell))


def _verdict(cell: ComparedCell) -> str:
    word = verdict_word(cell)
    return f"{word}: {cell.reason}" if cell.significant is None and cell.reason else word

"""Renders a report as GitHub-flavoured Markdown, short enough for a comment or a job summary."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from slr_bench.report.formats.table import Cell, Report, Section, Table, turned

if TYPE_CHECKING:
    from slr_bench.report.charts.matplotlib_renderer import Picture

MAX_ROWS = 60
"""Number of rows of a table; the HTML page has all rows."""
LIMIT = 65_000
"""Size in bytes. A comment takes 65,536 characters and a job summary 1 MiB; rows are left out to stay below."""
_ROWS = (MAX_ROWS, 40, 25, 15, 8, 4)


def escape(text: str) -> str:
    """Return foreign text as one line that makes no Markdown, HTML, mention or issue link."""
    line = " ".join(text.split())
    # Before html.escape brings in its own & and ;. A zero-width joint breaks @mentions and #1 links, not the reading.
    line = re.sub(r"([@#])", "\\1\u2060", line)
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(line, quote=False))


def render(report: Report, pictures: Sequence[Picture]) -> str:
    """Return the document. Pictures are linked as ``figures/<name>.png``.

    Long tables have as many rows as there is room for, and a line with the number of rows that are left out.
    """
    for rows in _ROWS:
        text = _rendered(report, pictures, rows)
        if len(text.encode()) <= LIMIT:
            break
    return text


def _rendered(report: Report, pictures: Sequence[Picture], rows: int) -> str:
    parts = [f"# {escape(report.title)}", escape(report.lead), escape(report.measured)]
    parts += [f"> **Warning.** {escape(warning)}" for warning in report.warnings]
    parts.append(table(turned(report.headline), rows=rows))
    parts += [
        f"[![{escape(picture.alt)}](figures/{picture.name}.png)](figures/{picture.name}.svg)" for picture in pictures
    ]
    parts += [_section(section, rows) for section in report.sections if section.tables or not section.charts]
    parts += ["## Measure it again", _code(report.command)]
    return "\n\n".join(parts) + "\n"


def _section(section: Section, rows: int) -> str:
    tables = [table(data, rows=rows) for data in section.tables]
    body = "\n\n".join([*map(escape, section.paragraphs), *tables])
    if not section.is_folded:
        return f"## {escape(section.title)}\n\n{body}"
    title = html.escape(section.title)
    return f"<details><summary><b>{title}</b></summary>\n\n{body}\n\n</details>"


def table(data: Table, whole: str = "report.html", *, rows: int = MAX_ROWS) -> str:
    """Return caption, table and footnotes. ``whole`` is the file that has the rows left out here."""
    notes = data.notes
    shown = data.rows[:rows]
    lines = [_line(f"{escape(column.title)}{_sup(column.note, notes)}" for column in data.columns)]
    lines.append(_line("---:" if column.numeric else "---" for column in data.columns))
    lines += [_line(_cell(cell, notes, strong=row.strong) for cell in row.cells) for row in shown]
    blocks = [f"**{escape(data.caption)}**", "\n".join(lines)]
    if len(shown) < len(data.rows):
        blocks.append(f"{len(data.rows) - len(shown)} more rows are in {whole}.")
    used = {column.note for column in data.columns} | {cell.note for row in shown for cell in row.cells}
    if any(used):
        blocks.append("<br>\n".join(f"<sup>{n}</sup> {escape(note)}" for note, n in notes.items() if note in used))
    return "\n\n".join(blocks)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell, notes: dict[str, int], *, strong: bool) -> str:
    text = escape(cell.whole)
    if cell.tone == "warn":
        text = f"⚠ {text}"
    if strong or cell.strong:
        text = f"**{text}**"
    return text + _sup(cell.note, notes)


def _sup(note: str | None, notes: dict[str, int]) -> str:
    return f" <sup>{notes[note]}</sup>" if note else ""


def _code(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"

"""A report as GitHub-flavoured Markdown, short enough for a job summary."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from slr_bench.report.drawing import Picture
from slr_bench.report.table import Cell, Report, Section, Table

MAX_ROWS = 60
"""Rows of a table here; the HTML page has all."""
_OPEN = frozenset({"waterfall", "arms", "grid", "missing"})
"""Sections shown unfolded."""


def escape(text: str) -> str:
    """Foreign text as one line that no Markdown, HTML, mention or issue link comes out of."""
    line = " ".join(text.split())
    # Before html.escape brings in its own & and ;. A zero-width joint breaks @mentions and #1 links, not the reading.
    line = re.sub(r"([@#])", "\\1\u2060", line)
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(line, quote=False))


def render(report: Report, pictures: Sequence[Picture]) -> str:
    """The whole document; pictures are linked as ``figures/<name>.png``."""
    parts = [f"# {escape(report.title)}", escape(report.lead), escape(report.measured)]
    parts += [f"> **Warning.** {escape(warning)}" for warning in report.warnings]
    parts.append(table(report.headline))
    parts += [
        f"[![{escape(picture.alt)}](figures/{picture.name}.png)](figures/{picture.name}.svg)" for picture in pictures
    ]
    parts += [_section(section) for section in report.sections]
    parts += ["Made by:", _code(report.command)]
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> str:
    body = "\n\n".join([*map(escape, section.paragraphs), *map(table, section.tables)])
    if section.key in _OPEN:
        return f"## {escape(section.title)}\n\n{body}"
    title = html.escape(section.title)
    return f"<details><summary><b>{title}</b></summary>\n\n{body}\n\n</details>"


def table(data: Table, whole: str = "report.html") -> str:
    """Caption, pipe table and footnotes; ``whole`` has the rows that there is no room for."""
    notes = data.notes
    shown = data.rows[:MAX_ROWS]
    lines = [_line(escape(column.title) for column in data.columns)]
    lines.append(_line("---:" if column.numeric else "---" for column in data.columns))
    lines += [_line(_cell(cell, notes, strong=row.strong) for cell in row.cells) for row in shown]
    blocks = [f"**{escape(data.caption)}**", "\n".join(lines)]
    if len(shown) < len(data.rows):
        blocks.append(f"{len(data.rows) - len(shown)} more rows are in {whole}.")
    used = {cell.note for row in shown for cell in row.cells}
    if any(used):
        blocks.append("<br>\n".join(f"<sup>{n}</sup> {escape(note)}" for note, n in notes.items() if note in used))
    return "\n\n".join(blocks)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell, notes: dict[str, int], *, strong: bool) -> str:
    text = escape(cell.text)
    if cell.tone == "warn":
        text = f"⚠ {text}"
    if strong:
        text = f"**{text}**"
    return f"{text} <sup>{notes[cell.note]}</sup>" if cell.note else text


def _code(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"

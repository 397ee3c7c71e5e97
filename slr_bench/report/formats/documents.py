"""Renders a report as a document: one self-contained HTML page, or Markdown that fits into a comment."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from slr_bench.report.charts.model import PALETTE, SHADES
from slr_bench.report.formats.table import Cell, Report, Section, Table, turned

if TYPE_CHECKING:
    from slr_bench.report.charts.matplotlib_renderer import Picture

HEIGHT: Final = 500
"""Height of an area chart in units of its paths; a tooltip reads values from them to 0.2 % of the top."""
STRIP_Y: Final = HEIGHT + 14
"""Position of the strip of phases, below the ground."""
SQUARE: Final = 1000
"""Width and height of a scatter chart in units of its paths."""
_LONG: Final = 28
"""Length in characters from which a word may be broken in a narrow column."""
MAX_ROWS = 60
"""Number of rows of a table; the HTML page has all rows."""
LIMIT = 65_000
"""Size in bytes. A comment takes 65,536 characters and a job summary 1 MiB; rows are left out to stay below."""
_ROWS = (MAX_ROWS, 40, 25, 15, 8, 4)


def render_html(report: Report, pictures: Sequence[Picture] = ()) -> str:
    """Return the page. It needs no other file, no network and no JavaScript; text of the run is never taken as HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("slr_bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawings = (area_path, strip_path, step_path, _breakable, _whole_words)
    environment.filters |= {function.__name__.lstrip("_"): function for function in drawings}
    # Only what this package wrote itself is trusted: style sheet, script, pictures (their text is escaped).
    folder = files("slr_bench.report") / "templates"
    style, script = (Markup((folder / name).read_text(encoding="utf-8")) for name in ("report.css", "report.js"))
    return environment.get_template("report.html.j2").render(
        report=report,
        headline=turned(report.headline),
        anchors=frozenset[str]().union(*(section.anchors for section in report.sections)),
        drawings=[(picture, Markup(picture.inline_svg)) for picture in pictures],
        palette=PALETTE,
        shades=SHADES,
        style=style,
        script=script,
        height=HEIGHT,
        square=SQUARE,
    )


def area_path(edge: Iterable[float]) -> str:
    """Return the path of a layer, one unit per point, closed along the ground: ``M0 500v-180h3v-12h1V500z``."""
    heights = [max(0, round(HEIGHT * value)) for value in edge]
    parts, run = [f"M0 {HEIGHT}v-{heights[0]}"], 0
    for before, after in zip(heights, [*heights[1:], None], strict=True):
        run += 1
        if after != before:
            parts.append(f"h{run}" if after is None else f"h{run}v{before - after}")
            run = 0
    return "".join([*parts, f"V{HEIGHT}z"])


def strip_path(spans: Iterable[tuple[int, int]]) -> str:
    """Return the path of a phase: one horizontal line per stay."""
    return "".join(f"M{start} {STRIP_Y}h{end - start}" for start, end in spans)


def step_path(corners: Iterable[tuple[float, float]]) -> str:
    """Return a line in steps from corner to corner."""
    places = [(round(SQUARE * x), round(SQUARE * (1 - y))) for x, y in corners]
    return "".join(f"H{x}V{y}" if number else f"M{x} {y}" for number, (x, y) in enumerate(places))


def _whole_words(text: str) -> Markup:
    """Let only words that are too long for a column break, and only at their joints."""
    return Markup(" ").join(_breakable(word) if len(word) > _LONG else word for word in text.split(" "))


def _breakable(name: str) -> Markup:
    """Let a key or the path of a module break after a dot or an underscore."""
    return Markup("_<wbr>").join(Markup(".<wbr>").join(part.split(".")) for part in name.split("_"))


def escape_markdown(text: str) -> str:
    """Return foreign text as one line that makes no Markdown, HTML, mention or issue link."""
    line = " ".join(text.split())
    # Before html.escape brings in its own & and ;. A zero-width joint breaks @mentions and #1 links, not the reading.
    line = re.sub(r"([@#])", "\\1\u2060", line)
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(line, quote=False))


def render_markdown(report: Report, pictures: Sequence[Picture]) -> str:
    """Return the document. Pictures are linked as ``figures/<name>.png``.

    Long tables have as many rows as there is room for, and a line with the number of rows that are left out.
    """
    for rows in _ROWS:
        text = _rendered(report, pictures, rows)
        if len(text.encode()) <= LIMIT:
            break
    return text


def _rendered(report: Report, pictures: Sequence[Picture], rows: int) -> str:
    parts = [f"# {escape_markdown(report.title)}", escape_markdown(report.lead), escape_markdown(report.measured)]
    parts += [f"> **Warning.** {escape_markdown(warning)}" for warning in report.warnings]
    parts.append(markdown_table(turned(report.headline), rows=rows))
    parts += [
        f"[![{escape_markdown(picture.alt)}](figures/{picture.name}.png)](figures/{picture.name}.svg)"
        for picture in pictures
    ]
    parts += [_section(section, rows) for section in report.sections if section.tables or not section.charts]
    parts += ["## Measure it again", _code(report.command)]
    return "\n\n".join(parts) + "\n"


def _section(section: Section, rows: int) -> str:
    tables = [markdown_table(data, rows=rows) for data in section.tables]
    body = "\n\n".join([*map(escape_markdown, section.paragraphs), *tables])
    if not section.is_folded:
        return f"## {escape_markdown(section.title)}\n\n{body}"
    title = html.escape(section.title)
    return f"<details><summary><b>{title}</b></summary>\n\n{body}\n\n</details>"


def markdown_table(data: Table, full_table: str = "report.html", *, rows: int = MAX_ROWS) -> str:
    """Return caption, table and footnotes. ``full_table`` is the file that has all rows."""
    notes = data.notes
    shown = data.rows[:rows]
    lines = [_line(f"{escape_markdown(column.title)}{_sup(column.note, notes)}" for column in data.columns)]
    lines.append(_line("---:" if column.numeric else "---" for column in data.columns))
    lines += [_line(_cell(cell, notes, strong=row.strong) for cell in row.cells) for row in shown]
    blocks = [f"**{escape_markdown(data.caption)}**", "\n".join(lines)]
    if len(shown) < len(data.rows):
        blocks.append(f"{len(data.rows) - len(shown)} more rows are in {full_table}.")
    used = {column.note for column in data.columns} | {cell.note for row in shown for cell in row.cells}
    if any(used):
        blocks.append(
            "<br>\n".join(f"<sup>{n}</sup> {escape_markdown(note)}" for note, n in notes.items() if note in used)
        )
    return "\n\n".join(blocks)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell, notes: dict[str, int], *, strong: bool) -> str:
    text = escape_markdown(cell.one_line)
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

"""Renders the headline of a report as a LaTeX table for booktabs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from slr_bench.report.formats.table import Cell, Report, Table, turned

_SPECIAL: Final[Mapping[str, str]] = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
    "-": r"{-}", "[": "{[}", "]": "{]}",
    "–": r"\textendash{}", "—": r"\textemdash{}", "…": r"\ldots{}", "×": r"$\times$", "÷": r"$\div$",
    "→": r"$\rightarrow$", "≥": r"$\geq$", "≤": r"$\leq$", "·": r"\textperiodcentered{}", "µ": r"$\mu$",
    "°": r"$^\circ$", "\u00a0": "~",
}  # fmt: skip
"""Characters that TeX reserves, or that pdfTeX's fonts have under a name. Two bare hyphens would become a dash."""
_PLAIN: Final = re.compile(r"[0-9A-Za-z !()*+,./:;=?@\u00c0-\u017e]")
_UNITS: Final = re.compile(r"(?<=\d) (?=(?:[KMG]iB|B|ms|s|min|h|µs|%)\b|%)")


def escape(text: str) -> str:
    """Return foreign text as LaTeX. A character that pdfTeX's fonts lack becomes its number: ``[U+4E2D]``."""
    return "".join(_escaped(char) for char in text)


def _escaped(char: str) -> str:
    if char in _SPECIAL:
        return _SPECIAL[char]
    return char if _PLAIN.match(char) else f"{{[}}U+{ord(char):04X}{{]}}"


def headline_table(report: Report) -> str:
    r"""Return a ``table`` float. It needs ``\usepackage{booktabs}`` and, for quotes, ``\usepackage[T1]{fontenc}``."""
    data = turned(report.headline)
    body = [_line([escape(column.title) for column in data.columns])]
    rows = [_line([_cell(cell, data) for cell in row.cells]) for row in data.rows]
    notes = [f"\\textsuperscript{{{number}}}\\,{escape(note)}." for note, number in data.notes.items()]
    lines = [
        r"% \usepackage{booktabs} \usepackage[T1]{fontenc} \usepackage{textcomp}",
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{escape(report.title)}. {escape(report.measured)}}}",
        f"\\begin{{tabular}}{{l{'r' * (len(data.columns) - 1)}}}",
        r"\toprule", *body, r"\midrule", *rows, r"\bottomrule",
        r"\end{tabular}",
        *([r"\par\smallskip\footnotesize", *notes] if notes else []),
        r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _cell(cell: Cell, data: Table) -> str:
    text = escape(_UNITS.sub("\u00a0", cell.one_line))
    return f"{text}\\textsuperscript{{{data.notes[cell.note]}}}" if cell.note else text


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"

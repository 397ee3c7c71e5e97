"""The doctor's findings as a table with the cures below their lacks, or as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from slr_bench.doctor.gpu import Finding
from slr_bench.report.text.words import plain

_STYLES = {"ok": "green", "lacking": "bold red", "not here": "yellow"}


def findings_table(findings: Sequence[Finding]) -> RenderableType:
    """One row a finding; a cure is a line below the detail that it mends."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    table.add_column(max_width=26, overflow="fold")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        text = Text(plain(finding.detail))
        if finding.cure and finding.state != "ok":
            text.append(f"\n→ {plain(finding.cure)}", style="dim")
        table.add_row(Text(plain(finding.name, 60)), Text(finding.state, style=_STYLES[finding.state]), text)
    return table


def findings_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """``{"findings": [{name, state, detail, cure}], "lacking": count}``; ``cure`` is null where there is none."""
    rows = [{**finding._asdict(), "cure": finding.cure or None} for finding in findings]
    return {"findings": rows, "lacking": sum(finding.state == "lacking" for finding in findings)}

"""``slr-bench doctor``: what can be measured here."""

from __future__ import annotations

from slr_bench.cli.base import JsonOption, app, finish
from slr_bench.errors import EXIT_OK


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine can measure and what not, with the cure for each lack. Exit code 0 whatever it finds."""
    from rich.console import Console

    from slr_bench.doctor.doctor import examine, findings_json, findings_table

    findings = list(examine())
    if not as_json:
        Console().print(findings_table(findings))
    finish(findings_json(findings), EXIT_OK, as_json)

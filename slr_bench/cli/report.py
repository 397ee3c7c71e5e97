"""``slr-bench report``: the report of a run directory again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slr_bench.cli.base import DEFAULT_RUN_DIRECTORY, JsonOption, app, finish, make_report
from slr_bench.errors import EXIT_OK


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="Run directory.")] = DEFAULT_RUN_DIRECTORY, as_json: JsonOption = False
) -> None:
    """Make report.html, report.md and the figures of a run directory again."""
    from rich.console import Console

    paths = make_report(run_dir, Console(stderr=as_json))
    finish({"run_dir": str(run_dir), **paths}, EXIT_OK, as_json)

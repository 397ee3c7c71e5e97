"""``slr-bench report``: the report of a run directory again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slr_bench.cli.base import DEFAULT_RUN_DIRECTORY, JsonOption, app, finish
from slr_bench.errors import EXIT_OK

if TYPE_CHECKING:
    from rich.console import Console


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="Run directory.")] = DEFAULT_RUN_DIRECTORY, as_json: JsonOption = False
) -> None:
    """Make report.html, report.md and the figures of a run directory again."""
    from rich.console import Console

    paths = make_report(run_dir, Console(stderr=as_json))
    finish({"run_dir": str(run_dir), **paths}, EXIT_OK, as_json)


def make_report(directory: Path, console: Console) -> dict[str, str]:
    """Write the report files and print the summary; the files' paths."""
    from slr_bench.report.build import write_reports
    from slr_bench.report.terminal import print_summary

    try:
        paths = write_reports(directory)
    finally:
        if (directory / "grid.json").is_file():
            print_summary(directory, console)
    console.print(f"report: {paths.html} and {paths.markdown}", soft_wrap=True)
    return {"html": str(paths.html), "markdown": str(paths.markdown)}

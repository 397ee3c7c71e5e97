"""``slr-bench report``: the report of a run directory again, and its figures for other programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from slr_bench.cli.base import DEFAULT_RUN_DIRECTORY, JsonOption, app, finish, make_report
from slr_bench.errors import EXIT_OK, ConfigError


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="Run directory.")] = DEFAULT_RUN_DIRECTORY,
    csv: Annotated[Path | None, typer.Option(help="Also every figure as CSV: a row a cell, run and metric.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="The same as Parquet (needs pyarrow).")] = None,
    latex: Annotated[
        bool, typer.Option("--latex", help="The headline as a LaTeX table on stdout, nothing else there.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make report.html, report.md and the figures of a run directory again."""
    if latex and as_json:
        raise ConfigError("--latex and --json both want stdout for themselves; ask for one")
    from rich.console import Console

    from slr_bench.report.run_report.content import read_content

    content = read_content(run_dir)
    made = {}
    if csv is not None:
        from slr_bench.report.formats.data_frame import write_csv

        write_csv(content.cells, csv)
        made["csv"] = str(csv)
    if parquet is not None:
        from slr_bench.report.formats.data_frame import write_parquet

        write_parquet(content.cells, parquet)
        made["parquet"] = str(parquet)
    if latex:
        from slr_bench.report.run_report.latex import headline_table

        sys.stdout.write(headline_table(content.report))
    paths = make_report(run_dir, Console(stderr=as_json or latex), content)
    finish({"run_dir": str(run_dir), **paths, **made}, EXIT_OK, as_json)

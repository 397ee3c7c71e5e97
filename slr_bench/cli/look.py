"""The commands ``report``, ``watch``, ``doctor`` and ``schema``: runs, processes, the machine, configurations."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from slr_bench.cli.base import JsonOption, finish, make_report, open_console
from slr_bench.errors import EXIT_OK, ConfigError
from slr_bench.options import DEFAULT_RUN_DIRECTORY


def report(
    run_dir: Annotated[Path, typer.Argument(help="Run directory.")] = DEFAULT_RUN_DIRECTORY,
    csv: Annotated[
        Path | None, typer.Option(help="Also write every value as CSV, one row per cell, run and metric.")
    ] = None,
    parquet: Annotated[Path | None, typer.Option(help="Also write every value as Parquet (needs pyarrow).")] = None,
    latex: Annotated[
        bool, typer.Option("--latex", help="Print the headline as a LaTeX table on stdout and nothing else.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write report.html, report.md and the figures of a run directory again."""
    if latex and as_json:
        raise ConfigError("--latex and --json both need stdout for themselves; use one of them")
    from slr_bench.report.run_report.content import read_content

    content = read_content(run_dir)
    tables = {}
    if csv is not None:
        from slr_bench.report.formats.data_frame import write_csv

        write_csv(content.cells, csv)
        tables["csv"] = str(csv)
    if parquet is not None:
        from slr_bench.report.formats.data_frame import write_parquet

        write_parquet(content.cells, parquet)
        tables["parquet"] = str(parquet)
    if latex:
        from slr_bench.report.formats.latex import headline_table

        sys.stdout.write(headline_table(content.report))
    paths = make_report(run_dir, open_console(stderr=as_json or latex), content)
    finish({"run_dir": str(run_dir), **paths, **tables}, EXIT_OK, as_json)


def watch(
    pid: Annotated[
        int | None, typer.Option(min=1, help="Process to watch, with all its descendants [default: the machine].")
    ] = None,
    period: Annotated[float, typer.Option(min=0.1, help="Seconds between two readings.")] = 1.0,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this number of readings.")] = None,
    warning: Annotated[float, typer.Option(help="Fraction of a memory from which on it is yellow.")] = 0.9,
    critical: Annotated[float, typer.Option(help="Fraction of a memory from which on it is red.")] = 0.95,
    as_json: Annotated[
        bool, typer.Option("--json", help='Print one JSON object per reading, and {"summary": ...} at the end.')
    ] = False,
) -> None:
    """Watch the GPU and RAM of a process tree until it ends, or of the machine until Ctrl-C. Exit code 0."""
    from slr_bench.api import watch as open_meters
    from slr_bench.probes.host import Thresholds
    from slr_bench.probes.tree import short_name
    from slr_bench.report.views import watch as watching

    thresholds = Thresholds(warning, critical)
    with watching.process_end(pid) as wait:
        reader, no_gpu = open_meters(pid)
        name = "machine" if pid is None else f"{short_name(pid) or 'process'} (PID {pid})"
        console = open_console(soft_wrap=as_json)
        can_redraw = console.is_terminal and not console.is_dumb_terminal
        view = watching.JsonView if as_json else watching.ScreenView if can_redraw else watching.LineView
        try:
            watching.watch(reader, view(reader, name, console, thresholds, no_gpu), wait, period, count)
        except BrokenPipeError:  # the reader of the pipe has closed it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(EXIT_OK)


def doctor(as_json: JsonOption = False) -> None:
    """List what this machine can and cannot measure, with a cure for each lack. The exit code is always 0."""
    from slr_bench.doctor import examine, findings_json, findings_table

    findings = list(examine())
    if not as_json:
        open_console().print(findings_table(findings))
    finish(findings_json(findings), EXIT_OK, as_json)


def schema(
    workload: Annotated[str, typer.Argument(help="Registered workload whose settings are described.")] = "train_step",
    grid: Annotated[bool, typer.Option("--grid", help="Write the schema of grid files of this workload.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Write a page that describes both kinds of files, in place of a schema.")
    ] = False,
) -> None:
    """Write the JSON Schema of a workload's training files, for completion in editors."""
    from slr_bench.grid.project_file import use_projects_of
    from slr_bench.grid.schema import grid_schema, reference, training_schema
    from slr_bench.grid.workload import find_workload

    if grid and markdown:
        raise ConfigError(
            "--grid and --markdown are two outputs, and the page has both kinds of files; give one of them"
        )
    use_projects_of(Path.cwd())
    spec = find_workload(workload)
    if markdown:
        sys.stdout.write(reference(spec))
    else:
        sys.stdout.write(json.dumps(grid_schema(spec) if grid else training_schema(spec), indent=1) + "\n")

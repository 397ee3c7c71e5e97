"""``report``, ``watch``, ``doctor`` and ``schema``: look at runs, processes, the machine and the configuration."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from slr_bench.cli.base import DEFAULT_RUN_DIRECTORY, JsonOption, finish, make_report
from slr_bench.errors import EXIT_OK, ConfigError


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
        from slr_bench.report.formats.latex import headline_table

        sys.stdout.write(headline_table(content.report))
    paths = make_report(run_dir, Console(stderr=as_json or latex), content)
    finish({"run_dir": str(run_dir), **paths, **made}, EXIT_OK, as_json)


def watch(
    pid: Annotated[
        int | None, typer.Option(min=1, help="Process to watch, with all its descendants [default: the machine].")
    ] = None,
    period: Annotated[float, typer.Option(min=0.1, help="Seconds from reading to reading.")] = 1.0,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after so many readings.")] = None,
    warning: Annotated[float, typer.Option(help="Fraction of a memory from which it is yellow.")] = 0.9,
    critical: Annotated[float, typer.Option(help="Fraction of a memory from which it is red.")] = 0.95,
    as_json: Annotated[
        bool, typer.Option("--json", help='A JSON object a line and reading, the last {"summary": ...}.')
    ] = False,
) -> None:
    """Watch GPU and RAM of a process tree until it ends, or of the machine until Ctrl-C: then exit code 0."""
    from rich.console import Console

    from slr_bench.api import watch as open_meters
    from slr_bench.probes.host import Thresholds
    from slr_bench.probes.tree import short_name
    from slr_bench.report.views import watch as watching

    thresholds = Thresholds(warning, critical)
    with watching.process_end(pid) as wait:
        reader, no_gpu = open_meters(pid)
        what = "machine" if pid is None else f"{short_name(pid) or 'process'} (PID {pid})"
        console = Console(soft_wrap=as_json)
        can_redraw = console.is_terminal and not console.is_dumb_terminal
        kind = watching.JsonView if as_json else watching.ScreenView if can_redraw else watching.LineView
        try:
            watching.watch(reader, kind(reader, what, console, thresholds, no_gpu), wait, period, count)
        except BrokenPipeError:  # whoever reads the lines has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(EXIT_OK)


def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine can measure and what not, with the cure for each lack. Exit code 0 whatever it finds."""
    from rich.console import Console

    from slr_bench.doctor.doctor import examine, findings_json, findings_table

    findings = list(examine())
    if not as_json:
        Console().print(findings_table(findings))
    finish(findings_json(findings), EXIT_OK, as_json)


def schema(
    workload: Annotated[str, typer.Argument(help="Registered workload whose settings to describe.")] = "train_step",
    grid: Annotated[bool, typer.Option("--grid", help="The schema of grid files of this workload.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Both kinds of files as a page to read, in place of a schema.")
    ] = False,
) -> None:
    """Write the JSON Schema of a workload's training files, with which editors complete the YAML."""
    from slr_bench.grid.project_file import use_projects_of
    from slr_bench.grid.reference import reference
    from slr_bench.grid.schema import grid_schema, training_schema
    from slr_bench.grid.workload import find_workload

    if grid and markdown:
        raise ConfigError("--grid and --markdown are two outputs: the page has both kinds of files; give one of them")
    use_projects_of(Path.cwd())
    spec = find_workload(workload)
    if markdown:
        sys.stdout.write(reference(spec))
    else:
        sys.stdout.write(json.dumps(grid_schema(spec) if grid else training_schema(spec), indent=1) + "\n")

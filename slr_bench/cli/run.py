"""``slr-bench run``: measure a grid into a run directory."""

from __future__ import annotations

import contextlib
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slr_bench.cli.base import (
    DEFAULT_RUN_DIRECTORY,
    JsonOption,
    SetOption,
    app,
    finish,
    interruption_told,
    make_report,
    public_command,
)
from slr_bench.errors import EXIT_CELL_CRASHED, EXIT_OK, ConfigError, NothingMeasuredError, SlrBenchError

if TYPE_CHECKING:
    from rich.console import Console

    from slr_bench.run.runner import Totals


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="Grid file, or a training file (a grid of one cell).")],
    out: Annotated[
        Path | None,
        typer.Option(help=f"Run directory [default: {DEFAULT_RUN_DIRECTORY}, one of another source is set aside]."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Set an existing run directory aside and start anew.")] = False,
    sets: SetOption = None,
    arm: Annotated[str | None, typer.Option(help="Run only this arm.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda, in place of the grid's.")] = None,
    fake: Annotated[
        bool, typer.Option("--fake", help="Trace bytes on fake tensors: no data, no GPU, no time; one process a cell.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run crashed and timed-out runs again.")] = False,
    no_skip: Annotated[
        bool, typer.Option("--no-skip", help="Run also what is larger than a cell that ran out of memory.")
    ] = False,
    aa: Annotated[bool, typer.Option("--aa", help="Every cell as both sides, in pairs: what noise does.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a grid, each cell in processes of its own, resuming what is missing; then report."""
    from rich.console import Console

    from slr_bench.files import parse_overrides
    from slr_bench.grid.cells import expand
    from slr_bench.grid.config import load_grid, with_device
    from slr_bench.run.binding import BoundElsewhereError
    from slr_bench.run.runner import Runner
    from slr_bench.run.store import Store

    console = Console(stderr=as_json)
    grid = with_device(load_grid(config), device)
    grid = grid.model_copy(update={"sides": 2}) if aa else grid
    grid = grid.repeated(1) if fake else grid  # fake tensors give the same bytes in every process
    cells = expand(grid, parse_overrides(sets), arm)
    directory = out or DEFAULT_RUN_DIRECTORY
    command = public_command(sys.argv[1:])
    runner = Runner(grid, cells, Store(directory), fake=fake, command=command, retry=retry, skip=not no_skip)
    if fresh:
        _set_aside(directory, console)
    with interruption_told("finished runs are kept, the same command goes on from there"):
        try:
            totals = _run(runner, console)
        except BoundElsewhereError:
            if out is not None:
                raise
            _set_aside(directory, console)
            totals = _run(runner, console)
        make_report(directory, console)
    finish(*_run_summary(directory, totals), as_json)


def _run(runner: Any, console: Console) -> Totals:
    from slr_bench.report.views.run_progress import LiveView

    console.print("starting: importing torch once for all cells")
    try:
        with LiveView(console) as view:
            totals: Totals = runner.run(view)
    except NothingMeasuredError:
        with contextlib.suppress(SlrBenchError):  # what failed and why is a report too; the error itself goes on
            make_report(runner.directory, console)
        raise
    return totals


def _run_summary(directory: Path, totals: Totals) -> tuple[dict[str, Any], int]:
    from slr_bench.run.runner import outcome_counts

    counts = outcome_counts(totals.records)
    harness_s = [value for record in totals.records if (value := record.value("harness_s")) is not None]
    summary = {
        "run_dir": str(directory),
        "cells": len({record.cell_id for record in totals.records}),
        "outcomes": counts,
        "duration_s": totals.duration_s,
        "harness_s_per_cell": statistics.median(harness_s) if harness_s else None,
    }
    return summary, EXIT_CELL_CRASHED if {"crash", "timeout"} & counts.keys() else EXIT_OK


def _set_aside(directory: Path, console: Console) -> None:
    """Rename a run directory to the next free ``NAME-<n>``: nothing finished is lost."""
    from slr_bench.run.store import Store

    if not directory.exists():
        return
    if not directory.is_dir():
        raise ConfigError(f"{directory} is a file, not a run directory; choose another with --out")
    if not (directory / "grid.json").is_file() and any(directory.iterdir()):
        raise ConfigError(f"{directory} holds something else than runs; choose another with --out")
    number = 1
    while (target := directory.with_name(f"{directory.name}-{number}")).exists():
        number += 1
    with Store(directory).locked():  # not from under a run that goes on in it
        directory.rename(target)
    console.print(f"the earlier runs in {directory} are now in {target}", soft_wrap=True)

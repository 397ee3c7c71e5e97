"""``slr-bench watch``: memory of a process tree or the machine, now."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from slr_bench.cli.base import app
from slr_bench.errors import EXIT_OK, ProbeUnavailableError


@app.command()
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

    from slr_bench.probes.host import Thresholds
    from slr_bench.probes.live import LiveReader, open_gpus
    from slr_bench.probes.nvml import load_library
    from slr_bench.probes.tree import short_name, tree_pids
    from slr_bench.report.views import watch as watching

    thresholds = Thresholds(warning, critical)
    with watching.process_end(pid) as wait:
        gpus, no_gpu = [], None
        try:
            gpus = open_gpus(load_library())
        except ProbeUnavailableError as error:
            no_gpu = str(error)
        ourselves = os.getpid()  # started from the shell that is watched, it would count itself

        def tree_without_us(root: int) -> list[int]:
            return [number for number in tree_pids(root) if number != ourselves or number == root]

        reader = LiveReader(pid, gpus, read_tree=tree_without_us)
        what = "machine" if pid is None else f"{short_name(pid) or 'process'} (PID {pid})"
        console = Console(soft_wrap=as_json)
        can_redraw = console.is_terminal and not console.is_dumb_terminal
        kind = watching.JsonView if as_json else watching.ScreenView if can_redraw else watching.LineView
        try:
            watching.watch(reader, kind(reader, what, console, thresholds, no_gpu), wait, period, count)
        except BrokenPipeError:  # whoever read the lines has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(EXIT_OK)

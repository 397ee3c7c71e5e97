"""``slr-bench run`` and ``slr-bench profile``: measure a grid, or every byte of one step."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slr_bench.cli.base import (
    ArmOption,
    ConfigArgument,
    DeviceOption,
    JsonOption,
    SetOption,
    WorkloadOption,
    explain_interruption,
    finish,
    make_report,
    open_console,
)
from slr_bench.errors import EXIT_CELL_CRASHED, EXIT_OK, NothingMeasuredError, SlrBenchError
from slr_bench.options import DEFAULT_RUN_DIRECTORY, RunOptions

if TYPE_CHECKING:
    from slr_bench.grid.cells import Cell


def run(
    config: ConfigArgument,
    out: Annotated[
        Path | None,
        typer.Option(help=f"Run directory [default: {DEFAULT_RUN_DIRECTORY}, renamed if of another source]."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Rename an existing run directory and start anew.")] = False,
    sets: SetOption = None,
    arm: Annotated[str | None, typer.Option(help="Run only this arm.")] = None,
    device: DeviceOption = None,
    fake: Annotated[
        bool,
        typer.Option("--fake", help="Trace bytes on fake tensors, without data, GPU or times; one process per cell."),
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run crashed and timed-out runs again.")] = False,
    no_skip: Annotated[
        bool, typer.Option("--no-skip", help="Run also the cells that are larger than one that ran out of memory.")
    ] = False,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Processes per cell, in place of the grid's; by default 1 with --fake.")
    ] = None,
    aa: Annotated[bool, typer.Option("--aa", help="Measure every cell against itself: shows the noise (A/A).")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a grid, each cell in processes of its own; finished runs are kept. Then write the report."""
    from slr_bench.api import run as run_grid
    from slr_bench.files import parse_overrides
    from slr_bench.record import public_command
    from slr_bench.report.views.run_progress import LiveView

    console = open_console(stderr=as_json)
    directory = out or DEFAULT_RUN_DIRECTORY
    with explain_interruption("finished runs are kept, and the same command continues from there"):
        try:
            result = run_grid(
                config,
                RunOptions(out, fresh, device, fake, retry, not no_skip, aa, repeats),
                arm=arm,
                overrides=parse_overrides(sets),
                command=public_command(sys.argv[1:]),
                view=lambda: LiveView(console),
                on_progress=lambda text: console.print(text, soft_wrap=True),
            )
        except NothingMeasuredError:
            with contextlib.suppress(SlrBenchError):  # the report shows which runs failed and why
                make_report(directory, console)
            raise
        make_report(directory, console)
    crashed = {"crash", "timeout"} & result.outcomes.keys()
    finish(result.to_dict(), EXIT_CELL_CRASHED if crashed else EXIT_OK, as_json)


def profile(
    config: ConfigArgument,
    arm: ArmOption = None,
    workload: WorkloadOption = None,
    sets: SetOption = None,
    device: DeviceOption = None,
    fake: Annotated[
        bool, typer.Option("--fake", help="Use fake tensors, without data; with --device cuda, by the rules of a GPU.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Directory for a page with pictures, and for the JSON.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Name every byte at the peak of one step, by category, module and phase, and list the largest tensors."""
    from slr_bench.api import profile as profile_setting
    from slr_bench.files import parse_overrides
    from slr_bench.record import public_command

    console = open_console(stderr=as_json)
    with console.status("importing torch") as status:

        def on_cell(cell: Cell) -> None:
            if not console.is_terminal:
                console.print(f"profiling {cell.spec.name}, arm {cell.arm}", markup=False, highlight=False)

        def on_phase(phase: str) -> None:
            if console.is_terminal:
                status.update(phase)
            elif phase:
                console.print(f"  {phase}", markup=False, highlight=False)

        result = profile_setting(
            config,
            arm=arm,
            workload=workload,
            overrides=parse_overrides(sets),
            device=device,
            fake=fake,
            on_cell=on_cell,
            on_phase=on_phase,
        )
    if not as_json:
        result.show(console)
    if out is not None:
        page = result.write_page(out, public_command(sys.argv[1:]))
        console.print(f"page: {page}", soft_wrap=True, markup=False, highlight=False)
    finish(result.to_dict(), EXIT_OK, as_json)

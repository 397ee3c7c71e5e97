"""``slr-bench run`` and ``slr-bench profile``: measure a grid, or every byte of one step."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slr_bench.cli.base import DEFAULT_RUN_DIRECTORY, JsonOption, SetOption, finish, interruption_told, make_report
from slr_bench.errors import EXIT_CELL_CRASHED, EXIT_OK, NothingMeasuredError, SlrBenchError
from slr_bench.record import public_command

if TYPE_CHECKING:
    from slr_bench.grid.cells import Cell


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

    from slr_bench.api import RunOptions
    from slr_bench.api import run as run_grid
    from slr_bench.files import parse_overrides
    from slr_bench.report.views.run_progress import LiveView

    console = Console(stderr=as_json)
    directory = out or DEFAULT_RUN_DIRECTORY
    with interruption_told("finished runs are kept, the same command goes on from there"):
        try:
            result = run_grid(
                config,
                RunOptions(out, fresh, device, fake, retry, not no_skip, aa),
                arm=arm,
                overrides=parse_overrides(sets),
                command=public_command(sys.argv[1:]),
                view=lambda: LiveView(console),
                on_progress=lambda text: console.print(text, soft_wrap=True),
            )
        except NothingMeasuredError:
            with contextlib.suppress(SlrBenchError):  # the report shows what failed and why; the error itself goes on
                make_report(directory, console)
            raise
        make_report(directory, console)
    crashed = {"crash", "timeout"} & result.outcomes.keys()
    finish(result.to_dict(), EXIT_CELL_CRASHED if crashed else EXIT_OK, as_json)


def profile(
    config: Annotated[Path, typer.Argument(help="Grid file, or a training file.")],
    arm: Annotated[str | None, typer.Option(help="Arm to look at, where the grid has several.")] = None,
    workload: Annotated[str | None, typer.Option(help="Workload to look at [default: the grid's first].")] = None,
    sets: SetOption = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda, in place of the grid's.")] = None,
    fake: Annotated[
        bool, typer.Option("--fake", help="On fake tensors: no data, no GPU. With --device cuda: as a GPU would.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Directory for a page with pictures, and the JSON.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Name every byte at the peak of one step: by category, module and phase, with the largest tensors."""
    from rich.console import Console

    from slr_bench.api import profile as profile_setting
    from slr_bench.files import parse_overrides

    console = Console(stderr=as_json)
    with console.status("importing torch") as status:

        def on_cell(cell: Cell) -> None:
            if not console.is_terminal:
                console.print(f"profiling {cell.spec.name}, arm {cell.arm}", markup=False, highlight=False)

        def on_phase(phase: str) -> None:
            if console.is_terminal:
                status.update(phase)
            elif phase:
                console.print(f"  {phase}", markup=False, highlight=False)

        found = profile_setting(
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
        found.show(console)
    if out is not None:
        page = found.write_page(out, public_command(sys.argv[1:]))
        console.print(f"page: {page}", soft_wrap=True, markup=False, highlight=False)
    finish(found.to_dict(), EXIT_OK, as_json)

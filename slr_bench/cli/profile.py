"""``slr-bench profile``: where the memory of one setting goes, at its peak."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from slr_bench.cli.base import JsonOption, SetOption, app, finish, public_command
from slr_bench.errors import EXIT_OK


@app.command()
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

    from slr_bench.files import parse_overrides
    from slr_bench.grid.cells import own_cell
    from slr_bench.grid.config import load_grid, with_device
    from slr_bench.report.views.profile import print_profile
    from slr_bench.report.views.profile_page import write_page
    from slr_bench.run.profiler import profile as profile_one

    console = Console(stderr=as_json)
    grid = with_device(load_grid(config), device)
    cell = own_cell(grid, parse_overrides(sets), arm, workload)
    with console.status("importing torch") as status:
        if not console.is_terminal:
            console.print(f"profiling {cell.spec.name}, arm {cell.arm}", markup=False, highlight=False)

        def progressed(phase: str) -> None:
            if console.is_terminal:
                status.update(phase)
            elif phase:
                console.print(f"  {phase}", markup=False, highlight=False)

        found = profile_one(grid, cell, fake, progressed, cuda_rules=fake and device == "cuda").to_dict()
    if not as_json:
        print_profile(found, console)
    if out is not None:
        page = write_page(found, out, public_command(sys.argv[1:]))
        console.print(f"page: {page}", soft_wrap=True, markup=False, highlight=False)
    finish(found, EXIT_OK, as_json)

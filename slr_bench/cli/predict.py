"""``slr-bench predict``: what a setting's step will need on a GPU that nobody has yet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slr_bench.cli.base import AllocConfOption, JsonOption, SetOption, app, finish
from slr_bench.errors import EXIT_DOES_NOT_FIT, EXIT_OK, ConfigError


@app.command()
def predict(
    config: Annotated[Path, typer.Argument(help="Grid file, or a training file.")],
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME|SIZE", help="GPU, like h200, rtx4090 or 24GiB; or cpu [default: a list of GPUs]."),
    ] = None,
    arm: Annotated[str | None, typer.Option(help="Arm to look at, where the grid has several.")] = None,
    workload: Annotated[str | None, typer.Option(help="Workload to look at [default: the grid's first].")] = None,
    sets: SetOption = None,
    whole_grid: Annotated[bool, typer.Option("--grid", help="Every cell of the grid, axes included.")] = False,
    alloc_conf: AllocConfOption = "",
    as_json: JsonOption = False,
) -> None:
    """Predict the peak memory of a step without the GPU: by category, with an interval, and whether it fits.

    Exit code 6: it does not fit; with --grid, no cell does.
    """
    from rich.console import Console

    from slr_bench.grid.project_file import use_projects_of
    from slr_bench.predict.device import means_cpu
    from slr_bench.predict.trace_pool import TracePool

    console = Console(stderr=as_json)
    use_projects_of(config.parent)  # before the pool's first process begins, which inherits them
    pool = TracePool(cuda_rules=not means_cpu(device), start_early=True)
    with console.status("importing torch") as status, pool:
        from slr_bench.files import parse_overrides
        from slr_bench.grid.cells import expand, own_cell
        from slr_bench.grid.config import load_grid
        from slr_bench.predict.grid_prediction import (
            GridPrediction,
            SettingPrediction,
            Target,
            predict_grid,
            predict_setting,
        )
        from slr_bench.report.views.predict import print_cells, print_prediction

        target = Target.from_options(device, alloc_conf)
        if whole_grid and workload is not None:
            raise ConfigError("--grid looks at all workloads; leave --workload out")
        grid = load_grid(config)
        overrides = parse_overrides(sets)
        done = 0

        def on_traced(*_: object) -> None:
            nonlocal done
            done += 1
            status.update(f"traced {done} cells")

        found: SettingPrediction | GridPrediction
        if whole_grid:
            found = predict_grid(expand(grid, overrides, arm), target, pool, device, on_traced)
        else:
            found = predict_setting(own_cell(grid, overrides, arm, workload), target, pool)
    if as_json:
        pass
    elif isinstance(found, GridPrediction):
        print_cells(found.cells, found.results, console)
    else:
        print_prediction(found.cell, found.result, found.cards, console)
    finish(found.to_dict(), EXIT_DOES_NOT_FIT if found.does_not_fit else EXIT_OK, as_json)

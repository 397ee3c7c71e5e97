"""``slr-bench predict``: what a setting's step will need on a GPU that nobody has yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from slr_bench.cli.base import AllocConfOption, JsonOption, SetOption, app, finish, means_cpu
from slr_bench.errors import EXIT_DOES_NOT_FIT, EXIT_OK, ConfigError, NothingMeasuredError

if TYPE_CHECKING:
    from rich.console import Console

    from slr_bench.grid.cells import Cell
    from slr_bench.predict.allocator.rules import AllocatorSettings
    from slr_bench.predict.host import HostPrediction
    from slr_bench.predict.peak import Prediction

    Answer = Prediction | HostPrediction | str


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

    from slr_bench.predict.trace_pool import Foreseen, Foresight

    console = Console(stderr=as_json)
    is_cpu = means_cpu(device)
    with console.status("importing torch") as status, Foresight(cuda_rules=not is_cpu) as foresight:
        foresight.begin()
        from slr_bench.files import parse_overrides
        from slr_bench.grid.cells import expand, own_cell
        from slr_bench.grid.config import load_grid
        from slr_bench.predict.allocator.rules import settings_of
        from slr_bench.predict.device import any_device, find_device
        from slr_bench.predict.host import predicted_host
        from slr_bench.predict.peak import predicted
        from slr_bench.probes.host import read_host_memory

        card = any_device() if device is None or is_cpu else find_device(device)
        settings = settings_of(alloc_conf)
        if is_cpu and alloc_conf:
            raise ConfigError("--alloc-conf is of CUDA's allocator; leave it out with --device cpu")
        if whole_grid and workload is not None:
            raise ConfigError("--grid looks at all workloads; leave --workload out")
        grid = load_grid(config)
        overrides = parse_overrides(sets)
        cells = expand(grid, overrides, arm) if whole_grid else [own_cell(grid, overrides, arm, workload)]
        cells = [cell for cell in cells if cell.spec.kind == "step"] if whole_grid else cells
        done, ram_bytes = 0, read_host_memory().left_bytes if is_cpu else None

        def seen(*_: object) -> None:
            nonlocal done
            done += 1
            status.update(f"traced {done} of {len(cells)}")

        found = foresight.foresee(cells, seen)

    def answer(one: Foreseen | str) -> Answer:
        if isinstance(one, str):
            return one
        return predicted_host(one, ram_bytes) if is_cpu else predicted(one, card, settings=settings)

    results = [answer(one) for one in found]
    if whole_grid:
        _tell_grid(cells, results, device, console, as_json)
    else:
        _tell_one(cells[0], results[0], settings, console, as_json)


def _tell_one(cell: Cell, result: Answer, settings: AllocatorSettings, console: Console, as_json: bool) -> NoReturn:
    from slr_bench.predict.host import HostPrediction
    from slr_bench.predict.peak import verdicts
    from slr_bench.report.views.predict import print_prediction

    if isinstance(result, str):
        raise NothingMeasuredError(f"unsupported: {result}")
    told = {"arm": cell.arm, "workload": cell.spec.name, "setting": cell.public_setting} | result.as_json()
    on_no_card = not isinstance(result, HostPrediction) and result.device.capacity_bytes is None
    cards = verdicts(result.foreseen, settings=settings) if on_no_card else {}
    if on_no_card:
        told["cards"] = {name: one.as_json() for name, one in cards.items()}
    if not as_json:
        print_prediction(cell, result, cards, console)
    finish(told, EXIT_DOES_NOT_FIT if result.fits is False else EXIT_OK, as_json)


def _tell_grid(
    cells: Sequence[Cell], results: Sequence[Answer], device: str | None, console: Console, as_json: bool
) -> NoReturn:
    from slr_bench.report.views.predict import print_cells

    made = [result for result in results if not isinstance(result, str)]
    if not made:
        raise NothingMeasuredError(f"no cell of {len(cells)} can be traced: {results[0] if results else 'no steps'}")
    if not as_json:
        print_cells(cells, results, console)
    entries = [
        {"cell_id": cell.cell_id, "arm": cell.arm, "workload": cell.spec.name, "coordinates": dict(cell.coordinates)}
        | ({"unsupported": result} if isinstance(result, str) else result.as_json())
        for cell, result in zip(cells, results, strict=True)
    ]
    nowhere = all(result.fits is False for result in made)
    finish({"device": device, "cells": entries}, EXIT_DOES_NOT_FIT if nowhere else EXIT_OK, as_json)

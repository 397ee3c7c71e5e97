"""``slr-bench plan``: the fastest setting that fits a GPU's memory, or the smallest that is fast enough."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slr_bench.cli.base import AllocConfOption, JsonOption, SetOption, app, finish
from slr_bench.cli.outputs import refuse_lost_outputs, write_output
from slr_bench.errors import EXIT_OK, ConfigError, NothingMeasuredError


@app.command()
def plan(
    config: Annotated[Path, typer.Argument(help="Grid file, or a training file.")],
    gpu_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Budget, context included, like 6GiB [default: the device's].")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="GPU whose speed and workspaces count, like rtx4060.")
    ] = None,
    arm: Annotated[str | None, typer.Option(help="Arm to start from, where the grid has several.")] = None,
    workload: Annotated[str | None, typer.Option(help="Workload to plan for [default: the grid's first].")] = None,
    sets: SetOption = None,
    headroom: Annotated[float, typer.Option(metavar="PERCENT", min=0, max=90, help="Of the budget left free.")] = 5.0,
    slower: Annotated[
        float | None,
        typer.Option(metavar="PERCENT", min=0, help="Instead: the least memory at this much more time at most."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="KNOB", help="Do not change it; the key of the micro-batch works too. Repeatable."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="KNOB", help="May be changed although it changes the model. Repeatable."),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=A,B", help="Choose among these values, in place of a knob's own. Repeatable."),
    ] = None,
    alloc_conf: AllocConfOption = "",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the chosen setting here, for the other commands (YAML).")
    ] = None,
    picture: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw memory against time (PNG or SVG).")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Calibrate and verify on this machine's GPU, in a few runs.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Choose micro-batch, precision, recomputation, attention for a memory budget, and say why.

    The effective batch and the model stay. Exit code 6: nothing fits.
    """
    from rich.console import Console

    from slr_bench.files import parse_overrides
    from slr_bench.grid.config import load_grid
    from slr_bench.predict.allocator.rules import settings_of
    from slr_bench.predict.device import any_device, find_device, means_cpu
    from slr_bench.predict.plan.planner import Planner, measure_on_gpu
    from slr_bench.predict.plan.result import Budget
    from slr_bench.report.views.plan import plan_picture, print_plan, setting_file
    from slr_bench.run.driver import has_cuda

    console = Console(stderr=as_json)
    if means_cpu(device):
        raise ConfigError("--device cpu: a plan is for a GPU; use predict --device cpu for the RAM of a setting")
    card = any_device() if device is None else find_device(device)
    budget = Budget.from_options(card, gpu_memory, headroom, slower)
    refuse_lost_outputs([out, picture])
    if picture is not None and picture.suffix.lower() not in (".png", ".svg"):
        raise ConfigError(f"--picture: {picture.name} is neither PNG nor SVG; name it .png or .svg")
    overrides = parse_overrides(sets)
    settings = settings_of(alloc_conf)
    planner = Planner(load_grid(config), overrides, arm, workload, card, keep or (), allow or (), vary or (), settings)
    if measure and not has_cuda():
        raise NothingMeasuredError(
            "--measure runs settings on a GPU, and torch sees none here; without it a plan predicts"
        )
    with console.status("importing torch") as status:
        found = planner.plan(budget, status.update, measure_on_gpu if measure else None)
    try:
        if out is not None:
            write_output(out, setting_file(found))
        if picture is not None:
            drawn = plan_picture(found)
            write_output(picture, drawn.svg if picture.suffix.lower() == ".svg" else drawn.png)
    finally:
        if not as_json:
            print_plan(found, console)
    for what, path in (("setting", out), ("picture", picture)):
        if path is not None:
            console.print(f"{what}: {path}", soft_wrap=True, markup=False, highlight=False)
    finish(found.to_dict(), EXIT_OK, as_json)

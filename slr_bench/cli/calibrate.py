"""``slr-bench calibrate``: this machine's GPU measured, for predictions made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slr_bench.cli.base import JsonOption, SetOption, app, finish
from slr_bench.errors import EXIT_OK, ConfigError, NothingMeasuredError, UnsupportedSettingError


@app.command()
def calibrate(
    config: Annotated[Path, typer.Argument(help="Grid whose steps are recorded, like configs/calibrate.yml.")],
    traces: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also keep the recorded allocator histories here.")
    ] = None,
    devices: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the device's file here [default: where predict reads].")
    ] = None,
    sets: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure this machine's GPU in a few minutes: context, workspaces, allocator histories.

    What it writes is used by predict and plan in place of rules, on this machine or another.
    """
    from importlib.resources import files

    from rich.console import Console

    from slr_bench.files import parse_overrides
    from slr_bench.grid.cells import expand
    from slr_bench.grid.config import load_grid
    from slr_bench.predict.calibrate import calibrate as measured
    from slr_bench.predict.calibrate import write_calibration
    from slr_bench.predict.calibration_processes import NO_GPU, GpuChildren
    from slr_bench.report.views.calibrate import print_calibration
    from slr_bench.run.driver import prepare

    console = Console(stderr=as_json)
    place = devices or Path(str(files("slr_bench.predict") / "devices"))
    cells = expand(load_grid(config), parse_overrides(sets))
    steps = [cell for cell in cells if cell.spec.kind == "step"]
    if not steps:
        raise ConfigError(f"{config} has no steps to record, only whole trainings; see configs/calibrate.yml")
    try:
        prepare(steps, "cuda")
    except UnsupportedSettingError as error:
        raise NothingMeasuredError(NO_GPU) from error
    shown = ""
    with console.status("importing torch") as status, GpuChildren(steps) as children:

        def told(what: str) -> None:
            nonlocal shown
            status.update(what)
            stage = what.partition(":")[0]
            if stage != shown:  # a line a stage, also where no spinner turns
                shown = stage
                console.print(f"measuring {what}", markup=False, highlight=False)

        found = measured(steps, children, told)
    if not found.traces:
        raise NothingMeasuredError(f"no setting's steps could be recorded: {found.notes[0]}")
    try:
        written = write_calibration(found, place, traces)
    except OSError as error:
        raise ConfigError(f"cannot write {error.filename}: {error.strerror}; choose another place") from error
    if not as_json:
        print_calibration(found, written, console)
    entry = {name: value for name, value in found.entry.items() if name != "operators"}
    answer = {"device": found.name, "files": [str(path) for path in written], "notes": list(found.notes)}
    finish({**answer, **entry}, EXIT_OK, as_json)

"""``slr-bench calibrate``: this machine's GPU measured, for predictions made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slr_bench.cli.base import JsonOption, SetOption, app, finish
from slr_bench.errors import EXIT_OK


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
    from rich.console import Console

    from slr_bench.files import parse_overrides
    from slr_bench.grid.cells import expand
    from slr_bench.grid.config import load_grid
    from slr_bench.predict.calibrate import calibrate_gpu
    from slr_bench.report.views.predict import print_calibration

    console = Console(stderr=as_json)
    cells = expand(load_grid(config), parse_overrides(sets))
    shown = ""
    with console.status("importing torch") as status:

        def on_progress(text: str) -> None:
            nonlocal shown
            status.update(text)
            stage = text.partition(":")[0]
            if stage != shown:  # one line per stage, also where no spinner is drawn
                shown = stage
                console.print(f"measuring {text}", markup=False, highlight=False)

        calibration = calibrate_gpu(cells, on_progress)
    written = calibration.write(devices, traces)
    if not as_json:
        print_calibration(calibration, written, console)
    finish(calibration.to_dict(written), EXIT_OK, as_json)

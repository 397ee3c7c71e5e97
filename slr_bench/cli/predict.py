"""The commands ``predict``, ``plan``, ``calibrate`` and ``replay``: memory on a GPU, which need not be here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slr_bench.cli.base import (
    AllocConfOption,
    ArmOption,
    ConfigArgument,
    JsonOption,
    SetOption,
    WorkloadOption,
    finish,
    open_console,
    refuse_lost_outputs,
    show_progress,
    write_output,
)
from slr_bench.errors import EXIT_DOES_NOT_FIT, EXIT_OK, ConfigError
from slr_bench.options import PlanOptions

if TYPE_CHECKING:
    from slr_bench.results import Plan

BudgetOption = Annotated[
    str | None, typer.Option(metavar="SIZE", help="GPU memory to use, with the CUDA context, like 6GiB [default: all].")
]
CardOption = Annotated[str | None, typer.Option(metavar="NAME|SIZE", help="GPU, like h200, rtx4090 or 24GiB.")]
HeadroomOption = Annotated[
    float, typer.Option(metavar="PERCENT", min=0, max=90, help="Part of the budget that stays free.")
]
SlowerOption = Annotated[
    float | None,
    typer.Option(metavar="PERCENT", min=0, help="In place of a budget: the least memory at most this much slower."),
]
KeepOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KNOB", help="Do not change this knob; the key of the micro-batch works too. Repeatable."),
]
AllowOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KNOB", help="Allow a change of this knob although it changes the model. Repeatable."),
]
VaryOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=A,B", help="Choose from these values, in place of a knob's own. Repeatable."),
]
SettingFileOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the chosen setting to this file, for other commands (YAML).")
]
PictureOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Draw memory against time (PNG or SVG).")]
MeasureOption = Annotated[
    bool, typer.Option("--measure", help="Calibrate and verify on this machine's GPU, in a few runs.")
]


SnapshotArgument = Annotated[
    Path, typer.Argument(help="File of torch.cuda.memory._dump_snapshot, or a page or JSON file made from it.")
]
OtherSettingsOption = Annotated[
    str | None,
    typer.Option(
        metavar="ALLOC_CONF", help="Allocator settings in place of the recorded ones, as in PYTORCH_ALLOC_CONF."
    ),
]
CapacityOption = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Memory for segments, like 6GiB [default: what a failed request shows]."),
]
DeviceIndexOption = Annotated[
    int | None, typer.Option(metavar="INDEX", min=0, help="GPU of the file [default: all with a history].")
]
PageOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write a page: timeline, segments, other settings, lines of source (HTML)."),
]


def predict(
    config: ConfigArgument,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME|SIZE", help="GPU, like h200, rtx4090 or 24GiB; or cpu [default: a list of GPUs]."),
    ] = None,
    gpu_memory: BudgetOption = None,
    arm: ArmOption = None,
    workload: WorkloadOption = None,
    sets: SetOption = None,
    whole_grid: Annotated[bool, typer.Option("--grid", help="Predict every cell of the grid, axes included.")] = False,
    alloc_conf: AllocConfOption = "",
    as_json: JsonOption = False,
) -> None:
    """Predict the peak memory of a step without the GPU, by category, with an interval, and whether it fits.

    Exit code 6: the setting does not fit; with --grid, no cell fits.
    """
    from slr_bench.api import predict as predict_steps
    from slr_bench.files import parse_overrides

    console = open_console(stderr=as_json)
    with show_progress("importing torch") as on_progress:
        result = predict_steps(
            config,
            device=device,
            gpu_memory=gpu_memory,
            arm=arm,
            workload=workload,
            overrides=parse_overrides(sets),
            whole_grid=whole_grid,
            alloc_conf=alloc_conf,
            on_progress=on_progress,
        )
    if not as_json:
        result.show(console)
    finish(result.to_dict(), EXIT_DOES_NOT_FIT if result.does_not_fit else EXIT_OK, as_json)


def plan(
    config: ConfigArgument,
    gpu_memory: BudgetOption = None,
    device: CardOption = None,
    arm: ArmOption = None,
    workload: WorkloadOption = None,
    sets: SetOption = None,
    headroom: HeadroomOption = 5.0,
    slower: SlowerOption = None,
    keep: KeepOption = None,
    allow: AllowOption = None,
    vary: VaryOption = None,
    alloc_conf: AllocConfOption = "",
    out: SettingFileOption = None,
    picture: PictureOption = None,
    measure: MeasureOption = False,
    as_json: JsonOption = False,
) -> None:
    """Choose micro-batch, precision, recomputation and attention for a memory budget, and print the reasons.

    The effective batch and the model stay the same. Exit code 6: no setting fits.
    """
    from slr_bench.api import plan as plan_setting
    from slr_bench.files import parse_overrides

    console = open_console(stderr=as_json)
    refuse_lost_outputs([out, picture])
    if picture is not None and picture.suffix.lower() not in (".png", ".svg"):
        raise ConfigError(f"--picture: {picture.name} is neither PNG nor SVG; name it .png or .svg")
    options = PlanOptions(
        gpu_memory, device, headroom, slower, keep or (), allow or (), vary or (), alloc_conf, measure
    )
    overrides = parse_overrides(sets)
    with show_progress("importing torch") as on_progress:
        result = plan_setting(config, options, arm=arm, workload=workload, overrides=overrides, on_progress=on_progress)
    try:
        _write_plan(result, out, picture)
    finally:
        if not as_json:
            result.show(console)
    for kind, path in (("setting", out), ("picture", picture)):
        if path is not None:
            console.print(f"{kind}: {path}", soft_wrap=True, markup=False, highlight=False)
    finish(result.to_dict(), EXIT_OK, as_json)


def _write_plan(result: Plan, out: Path | None, picture: Path | None) -> None:
    if out is not None:
        write_output(out, result.setting_file())
    if picture is not None:
        drawn = result.picture()
        write_output(picture, drawn.svg if picture.suffix.lower() == ".svg" else drawn.png)


def calibrate(
    config: Annotated[Path, typer.Argument(help="Grid whose steps are recorded, like configs/calibrate.yml.")],
    traces: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also keep the recorded allocator histories in this directory.")
    ] = None,
    devices: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write the device's file to this directory [default: where predict reads it]."
        ),
    ] = None,
    sets: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure this machine's GPU in a few minutes: context, workspaces, allocator histories.

    The commands predict and plan use the result in place of rules, on this machine or another.
    """
    from slr_bench.api import calibrate as calibrate_gpu
    from slr_bench.files import parse_overrides
    from slr_bench.report.views.predict import print_calibration

    console = open_console(stderr=as_json)
    shown = ""
    with console.status("importing torch") as status:

        def on_progress(text: str) -> None:
            nonlocal shown
            status.update(text)
            stage = text.partition(":")[0]
            if stage != shown:  # one line per stage, also if no spinner is drawn
                shown = stage
                console.print(f"measuring {text}", markup=False, highlight=False)

        result = calibrate_gpu(config, overrides=parse_overrides(sets), on_progress=on_progress)
    written = result.write(devices, traces)
    if not as_json:
        print_calibration(result, written, console)
    finish(result.to_dict(written), EXIT_OK, as_json)


def replay(
    snapshot: SnapshotArgument,
    settings: OtherSettingsOption = None,
    capacity: CapacityOption = None,
    device: DeviceIndexOption = None,
    torch_version: Annotated[
        str, typer.Option("--torch", metavar="VERSION", help="Use the allocator rules of this release of torch.")
    ] = "2.14",
    out: PageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replay a CUDA memory snapshot: is the allocator understood, what is fragmented, which settings would help.

    Exit codes: 0 the simulation agrees, 1 it differs, 5 there is nothing to check. With other settings or a capacity:
    0 it fits, 6 it does not.
    """
    from slr_bench.api import replay as replay_snapshot
    from slr_bench.predict.allocator.inspection import inspect_replay
    from slr_bench.record import public_command
    from slr_bench.report.views.replay import print_replay, replay_page
    from slr_bench.units import parse_bytes

    refuse_lost_outputs([out])
    if out is not None and out.exists() and snapshot.exists() and out.samefile(snapshot):
        raise ConfigError(f"--out: {out} is the snapshot itself; name another file for the page")
    try:
        capacity_bytes = None if capacity is None else parse_bytes(capacity)
    except ValueError as error:
        raise ConfigError(f"--capacity: {error}") from error
    result = replay_snapshot(
        snapshot, settings=settings, capacity_bytes=capacity_bytes, device=device, torch_version=torch_version
    )
    found, inspection, console = result.to_dict(), None, open_console(stderr=as_json)
    if out is not None:
        inspection = inspect_replay(result)
        write_output(out, replay_page(result, inspection, snapshot.name, public_command(sys.argv[1:])))
        found |= {**inspection.to_dict(), "page": str(out)}
    print_replay(result, inspection, console)
    if out is not None:
        console.print(f"page: {out}", soft_wrap=True, markup=False, highlight=False)
    finish(found, result.exit_code, as_json)

"""``slr-bench compare``: is it different?"""

from __future__ import annotations

from typing import Annotated

import typer

from slr_bench.cli.base import JsonOption, SetOption, app, finish
from slr_bench.cli.outputs import refuse_lost_outputs, write_output
from slr_bench.cli.sides import (
    ArmOption,
    BaseArgument,
    Choice,
    ConfigOption,
    DeviceOption,
    FakeOption,
    HeadArgument,
    MarkdownOption,
    OutOption,
    RepeatsOption,
    WorkloadOption,
    obtain,
    tidied,
)
from slr_bench.errors import EXIT_CELL_CRASHED, EXIT_OK


@app.command()
def compare(
    base: BaseArgument,
    head: HeadArgument = None,
    arm: ArmOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    workload: WorkloadOption = None,
    repeats: RepeatsOption = None,
    device: DeviceOption = None,
    fake: FakeOption = False,
    out: OutOption = None,
    markdown: MarkdownOption = None,
    show_all: Annotated[bool, typer.Option("--all", help="Every metric of every cell, different or not.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare two run directories, both sides of one, or two revisions measured in turn; metric by metric.

    Exit codes: 0 compared, whatever it finds, 2 usage, 3 no baseline, 4 not comparable, 5 nothing measured, 7 a cell of
    the head crashed."""
    from rich.console import Console

    from slr_bench.report.views.compare import comparison_markdown, print_comparison

    console = Console(stderr=as_json)
    choice = Choice(base, head, arm, config, sets or [], workload, repeats, device, fake, out)
    refuse_lost_outputs([markdown])
    comparison = obtain(choice, console)
    if not as_json:
        print_comparison(comparison, console, show_all)
    if markdown is not None:
        write_output(markdown, comparison_markdown(comparison))
    finish(tidied(comparison.to_dict()), EXIT_CELL_CRASHED if comparison.crashed else EXIT_OK, as_json)

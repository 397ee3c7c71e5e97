"""``slr-bench gate``: did this commit make it worse?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from slr_bench.cli.base import JsonOption, SetOption, app, finish
from slr_bench.cli.outputs import refuse_lost_outputs, remove_outputs, write_output
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
from slr_bench.errors import ConfigError, SlrBenchError

if TYPE_CHECKING:
    from slr_bench.compare.gate import GateResult


class Outputs(NamedTuple):
    """Where the answer is written besides the terminal."""

    markdown: Path | None
    junit: Path | None
    bmf: Path | None
    smaller_is_better: Path | None


@app.command()
def gate(
    base: BaseArgument,
    head: HeadArgument = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC:LIMIT",
            help="How much worse it may get: peak_tensor_bytes:0%, step_time_s:10%:optional, peak_rss_bytes:100MiB. "
            "Repeatable.",
        ),
    ] = None,
    rules: Annotated[list[Path] | None, typer.Option(help="YAML file of rules. Repeatable.")] = None,
    allow_missing: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Cells that the head may lack, by arm, workload/arm or id. Repeatable."),
    ] = None,
    arm: ArmOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    workload: WorkloadOption = None,
    repeats: RepeatsOption = None,
    device: DeviceOption = None,
    fake: FakeOption = False,
    out: OutOption = None,
    markdown: MarkdownOption = None,
    junit: Annotated[Path | None, typer.Option(help="Write it as JUnit XML.")] = None,
    bmf: Annotated[Path | None, typer.Option(help="Write the head's figures in Bencher Metric Format.")] = None,
    smaller_is_better: Annotated[
        Path | None, typer.Option(help="Write them for github-action-benchmark (customSmallerIsBetter).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fail where the head is worse than the rules allow. Exit codes: 0 passed, 1 regression, 2 usage, 3 no baseline,
    4 not comparable, 5 nothing measured, 7 a cell of the head crashed."""
    from rich.console import Console

    from slr_bench.compare.gate import judge_gate
    from slr_bench.compare.rules import gather_rules
    from slr_bench.report.views.gate import print_gate

    console = Console(stderr=as_json)
    files = Outputs(markdown, junit, bmf, smaller_is_better)
    remove_outputs(files)
    choice = Choice(base, head, arm, config, sets or [], workload, repeats, device, fake, out)
    try:
        refuse_lost_outputs(files)
        asked = gather_rules(rule or [], rules or [], allow_missing or [])
        result = judge_gate(obtain(choice, console), asked)
    except SlrBenchError as error:
        _write_no_verdict(error, files)
        raise
    if not as_json:
        print_gate(result, console)
    _write(result, files)
    finish(tidied(result.to_dict()), result.exit_code, as_json)


def _write(result: GateResult, files: Outputs) -> None:
    from slr_bench.report.views.ci import bencher_metrics, gate_junit, smaller_is_better
    from slr_bench.report.views.gate import gate_markdown

    _write_each(
        {
            files.markdown: lambda: gate_markdown(result),
            files.junit: lambda: gate_junit(result),
            files.bmf: lambda: bencher_metrics(result.comparison),
            files.smaller_is_better: lambda: smaller_is_better(result.comparison),
        }
    )


def _write_no_verdict(error: SlrBenchError, files: Outputs) -> None:
    """Whoever reads the files alone must see that the gate ended without an answer; figures it has none."""
    from slr_bench.report.views.ci import no_verdict_junit
    from slr_bench.report.views.gate import no_verdict, no_verdict_markdown

    text = no_verdict(str(error), error.exit_code)
    with suppress(ConfigError):  # of two mistakes the first is told
        _write_each({files.markdown: lambda: no_verdict_markdown(text), files.junit: lambda: no_verdict_junit(text)})


def _write_each(texts: Mapping[Path | None, Callable[[], str]]) -> None:
    for path, text in texts.items():
        if path is not None:
            write_output(path, text())

"""The commands ``compare`` (do two sides differ?) and ``gate`` (did this commit make it worse?)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from slr_bench.cli.base import (
    JsonOption,
    SetOption,
    explain_interruption,
    finish,
    open_console,
    printable,
    refuse_lost_outputs,
    remove_outputs,
    write_output,
)
from slr_bench.errors import EXIT_CELL_CRASHED, EXIT_OK, ConfigError, SlrBenchError
from slr_bench.options import CompareOptions

if TYPE_CHECKING:
    from rich.console import Console

    from slr_bench.compare.comparison import Comparison
    from slr_bench.compare.gate import GateResult

BaseArgument = Annotated[str, typer.Argument(help="Run directory, or a revision of this git repository.")]
HeadArgument = Annotated[
    str | None,
    typer.Argument(help="As BASE; . is the working tree [default: side b of the directory, or the working tree]."),
]
ArmOption = Annotated[str | None, typer.Option(help="Compare only this arm.")]
ConfigOption = Annotated[
    Path | None, typer.Option(help="Revisions: grid file to measure both with [default: configs/ablation.yml].")
]
WorkloadOption = Annotated[str | None, typer.Option(help="Revisions: only this workload of the grid.")]
RepeatsOption = Annotated[
    int | None, typer.Option(min=1, help="Revisions: pairs of processes per cell, in place of the grid's.")
]
DeviceOption = Annotated[str | None, typer.Option(help="Revisions: auto, cpu or cuda, in place of the grid's.")]
FakeOption = Annotated[
    bool, typer.Option("--fake", help="Revisions: trace bytes on fake tensors, without data or times.")
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        help="Revisions: keep the runs in DIR/base and DIR/head; the same command continues them [default: keep none]."
    ),
]
MarkdownOption = Annotated[Path | None, typer.Option(help="Write the result as Markdown for a pull request.")]

RuleOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="METRIC:LIMIT",
        help="Limit of a metric's growth: peak_tensor_bytes:0%, step_time_s:10%:optional, peak_rss_bytes:100MiB. "
        "Repeatable.",
    ),
]
RulesOption = Annotated[list[Path] | None, typer.Option(help="YAML file of rules. Repeatable.")]
AllowMissingOption = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Cells that the head may lack, by arm, workload/arm or id. Repeatable."),
]
JunitOption = Annotated[Path | None, typer.Option(help="Write the result as JUnit XML.")]
BmfOption = Annotated[Path | None, typer.Option(help="Write the head's values in Bencher Metric Format.")]
SmallerOption = Annotated[
    Path | None, typer.Option(help="Write the head's values for github-action-benchmark (customSmallerIsBetter).")
]


class Sides(NamedTuple):
    """The two sides, and how they are measured if they are revisions."""

    base: str
    head: str | None
    arm: str | None
    options: CompareOptions

    def compare(self, console: Console) -> Comparison:
        """Compare the sides; measure them first if they are revisions."""
        from slr_bench.api import compare
        from slr_bench.record import public_command
        from slr_bench.report.views.run_progress import LiveView

        def on_progress(text: str) -> None:
            note = text.removeprefix("warning: ")
            console.print(note, style="yellow" if note != text else None, soft_wrap=True)

        out = self.options.out
        kept = f"finished runs are kept in {out}, and the same command continues from there"
        with explain_interruption(kept if out else "no run is kept; use --out DIR to keep finished runs"):
            return compare(
                self.base,
                self.head,
                self.options,
                arm=self.arm,
                command=public_command(sys.argv[1:]),
                view=lambda: LiveView(console, sides=("base", "head")),
                on_progress=on_progress,
            )


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
    show_all: Annotated[
        bool, typer.Option("--all", help="Print every metric of every cell, different or not.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare two run directories, both sides of one, or two revisions measured interleaved; metric by metric.

    Exit codes: 0 compared, with or without differences, 2 usage, 3 no baseline, 4 not comparable, 5 nothing measured,
    7 crash in the head."""
    from slr_bench.files import parse_overrides
    from slr_bench.report.views.compare import comparison_markdown, print_comparison

    console = open_console(stderr=as_json)
    options = CompareOptions(config, parse_overrides(sets), workload, repeats, device, fake, out)
    refuse_lost_outputs([markdown])
    comparison = Sides(base, head, arm, options).compare(console)
    if not as_json:
        print_comparison(comparison, console, show_all)
    if markdown is not None:
        write_output(markdown, comparison_markdown(comparison))
    finish(printable(comparison.to_dict()), EXIT_CELL_CRASHED if comparison.crashed else EXIT_OK, as_json)


class Outputs(NamedTuple):
    """Files that the verdict is written to, besides the terminal."""

    markdown: Path | None
    junit: Path | None
    bmf: Path | None
    smaller_is_better: Path | None


def gate(
    base: BaseArgument,
    head: HeadArgument = None,
    rule: RuleOption = None,
    rules: RulesOption = None,
    allow_missing: AllowMissingOption = None,
    arm: ArmOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    workload: WorkloadOption = None,
    repeats: RepeatsOption = None,
    device: DeviceOption = None,
    fake: FakeOption = False,
    out: OutOption = None,
    markdown: MarkdownOption = None,
    junit: JunitOption = None,
    bmf: BmfOption = None,
    smaller_is_better: SmallerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fail if the head is worse than the rules allow. Exit codes: 0 passed, 1 regression, 2 usage, 3 no baseline,
    4 not comparable, 5 nothing measured, 7 crash in the head."""
    from slr_bench.api import gate as judge
    from slr_bench.compare.rules import gather_rules
    from slr_bench.files import parse_overrides
    from slr_bench.report.views.gate import print_gate

    console = open_console(stderr=as_json)
    files = Outputs(markdown, junit, bmf, smaller_is_better)
    remove_outputs(files)
    try:
        refuse_lost_outputs(files)
        ruling = gather_rules(rule or [], rules or [], allow_missing or [])
        options = CompareOptions(config, parse_overrides(sets), workload, repeats, device, fake, out)
        result = judge(Sides(base, head, arm, options).compare(console), ruling)
    except SlrBenchError as error:
        _write_no_verdict(error, files)
        raise
    if not as_json:
        print_gate(result, console)
    _write(result, files)
    finish(printable(result.to_dict()), result.exit_code, as_json)


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
    """Write to the files that the gate ended without a verdict. The files of metrics stay absent."""
    from slr_bench.report.views.ci import no_verdict_junit
    from slr_bench.report.views.gate import no_verdict, no_verdict_markdown

    text = no_verdict(str(error), error.exit_code)
    with suppress(ConfigError):  # the first of two errors is reported
        _write_each({files.markdown: lambda: no_verdict_markdown(text), files.junit: lambda: no_verdict_junit(text)})


def _write_each(texts: Mapping[Path | None, Callable[[], str]]) -> None:
    for path, text in texts.items():
        if path is not None:
            write_output(path, text())

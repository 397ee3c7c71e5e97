"""What ``compare`` and ``gate`` share: their options, and how two sides become a comparison."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slr_bench.cli.base import interruption_told, public_command, public_word
from slr_bench.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from slr_bench.compare.comparison import Comparison
    from slr_bench.compare.sources import RevisionPair

DEFAULT_GRID = Path("configs/ablation.yml")

BaseArgument = Annotated[str, typer.Argument(help="Run directory, or a revision of this git repository.")]
HeadArgument = Annotated[
    str | None,
    typer.Argument(help="The same; . is the working tree [default: side b of the directory, or the working tree]."),
]
ArmOption = Annotated[str | None, typer.Option(help="Only this arm.")]
ConfigOption = Annotated[
    Path | None, typer.Option(help=f"Revisions: grid file to measure both with [default: {DEFAULT_GRID}].")
]
WorkloadOption = Annotated[str | None, typer.Option(help="Revisions: only this workload of the grid.")]
RepeatsOption = Annotated[
    int | None, typer.Option(min=1, help="Revisions: pairs of processes a cell, in place of the grid's.")
]
DeviceOption = Annotated[str | None, typer.Option(help="Revisions: auto, cpu or cuda, in place of the grid's.")]
FakeOption = Annotated[bool, typer.Option("--fake", help="Revisions: trace bytes on fake tensors, no data, no time.")]
OutOption = Annotated[
    Path | None,
    typer.Option(
        help="Revisions: keep the runs in DIR/base and DIR/head; the same command goes on [default: kept nowhere]."
    ),
]
MarkdownOption = Annotated[Path | None, typer.Option(help="Write it as Markdown for a pull request.")]


@dataclass(frozen=True)
class Choice:
    """What was asked of two sides."""

    base: str
    head: str | None
    arm: str | None
    config: Path | None
    sets: Sequence[str]
    workload: str | None
    repeats: int | None
    device: str | None
    fake: bool
    out: Path | None

    @property
    def measuring(self) -> Mapping[str, Any]:
        """Options that say what is to be measured."""
        named = ("config", "workload", "repeats", "device", "fake", "out")
        return {"--set": self.sets} | {f"--{name}": getattr(self, name) for name in named}


def obtain(choice: Choice, console: Console) -> Comparison:
    """The comparison of what was named, measured first where that is two revisions."""
    from slr_bench.compare.comparison import compare_runs, compare_sides
    from slr_bench.compare.sources import RevisionPair, TwoSides, find_sources

    found = find_sources(choice.base, choice.head, Path.cwd())
    if isinstance(found, RevisionPair):
        return _measured(choice, found, console)
    given = [name for name, value in choice.measuring.items() if value]
    if given:
        raise ConfigError(f"{given[0]} says what to measure, and {choice.base} was measured before; leave it out")
    if isinstance(found, TwoSides):
        return compare_sides(found.directory, name=public_word(choice.base), arm=choice.arm)
    names = (public_word(choice.base), public_word(choice.head or ""))
    return compare_runs(found.base, found.head, names=names, arm=choice.arm)


def _measured(choice: Choice, pair: RevisionPair, console: Console) -> Comparison:
    from slr_bench.compare.comparison import compare_runs
    from slr_bench.files import parse_overrides
    from slr_bench.report.views.run_progress import LiveView
    from slr_bench.run.revisions import git
    from slr_bench.run.revisions.measure import SIDES, MeasurementRequest, measure_interleaved

    if not pair.head.is_working_tree and not pair.base.is_working_tree and git.is_dirty(pair.top):
        note = "the working tree has changes that no commit has; they are not measured (name it with .)"
        console.print(note, style="yellow", soft_wrap=True)
    overrides = parse_overrides(choice.sets)
    asked = MeasurementRequest(_grid(choice), overrides, choice.arm, choice.fake, public_command(sys.argv[1:]))
    console.print("starting: checking both sides out, importing torch once a side", soft_wrap=True)
    revisions = (pair.base, pair.head)
    kept = f"finished runs are kept in {choice.out}, the same command goes on from there"
    with (
        interruption_told(kept if choice.out else "nothing is kept: with --out DIR finished runs would be"),
        LiveView(console, sides=SIDES) as view,
        measure_interleaved(pair.top, revisions, asked, choice.out, view) as directories,
    ):
        comparison = compare_runs(*directories, arm=choice.arm)
    if comparison.crashed and choice.out is None:
        console.print("cells crashed; their logs are kept with --out DIR", style="yellow")
    return comparison


def _grid(choice: Choice) -> Any:
    from slr_bench.grid.config import load_grid, with_device

    grid = with_device(load_grid(choice.config or DEFAULT_GRID), choice.device).model_copy(update={"sides": 1})
    grid = grid.of_workload(choice.workload) if choice.workload else grid
    repeats = 1 if choice.fake and choice.repeats is None else choice.repeats
    return grid.repeated(repeats) if repeats else grid


def tidied(value: Any) -> Any:
    """JSON values with every text cut and printable: names come from configurations, reasons from whatever broke."""
    from slr_bench.units import plain

    if isinstance(value, Mapping):
        return {plain(key): tidied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [tidied(item) for item in value]
    return plain(value) if isinstance(value, str) else value

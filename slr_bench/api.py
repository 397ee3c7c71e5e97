"""The Python interface: one function per command, on grid files and training files, with typed results.

    import slr_bench

    slr_bench.predict("configs/ablation.yml", arm="optimized", device="24GiB").does_not_fit

Every result has ``to_dict()``, the JSON of the command, and shows itself as a table in a notebook. Nothing here imports
torch: what needs it runs in child processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from slr_bench.errors import ConfigError, NothingMeasuredError, ProbeUnavailableError

if TYPE_CHECKING:
    from rich.console import Console

    from slr_bench.compare.comparison import Comparison
    from slr_bench.compare.gate import GateResult
    from slr_bench.compare.rules import RuleSet
    from slr_bench.compare.sources import RevisionPair
    from slr_bench.grid.cells import Cell
    from slr_bench.predict.allocator.replay import SnapshotReplay
    from slr_bench.predict.calibrate import Calibration
    from slr_bench.predict.grid_prediction import GridPrediction, SettingPrediction
    from slr_bench.predict.plan.result import Plan as PlanFound
    from slr_bench.probes.live import LiveReader
    from slr_bench.report.charts.matplotlib_renderer import Picture
    from slr_bench.report.run_report.content import RunContent
    from slr_bench.run.profiler import Profile as ProfileFound
    from slr_bench.run.runner import Listener, Totals

OnText = Callable[[str], None]
"""Receives one line of progress."""
Json = dict[str, Any]
"""The JSON object that a command prints with ``--json``."""
DEFAULT_GRID = Path("configs/ablation.yml")
"""Grid file that revisions are measured with."""
DEFAULT_RUN_DIRECTORY = Path("reports/latest")


def _ignore(text: str) -> None:
    pass


class _Shown(Protocol):
    """A result that can print itself."""

    def show(self, console: Console) -> None: ...


def _html(result: _Shown) -> str:
    """Render what a command prints as HTML for a notebook."""
    import io

    from rich.console import Console

    console = Console(file=io.StringIO(), record=True, width=120)
    result.show(console)
    return console.export_html(inline_styles=True, code_format='<pre style="line-height:1.2">{code}</pre>')


@dataclass(frozen=True)
class Profile:
    """Every byte at the peak of one step."""

    found: ProfileFound

    def to_dict(self) -> Json:
        """Return the JSON of ``slr-bench profile``."""
        return self.found.to_dict()

    def show(self, console: Console) -> None:
        """Print the tables of the command."""
        from slr_bench.report.views.profile import print_profile

        print_profile(self.to_dict(), console)

    def write_page(self, directory: Path, command: str = "") -> Path:
        """Write the page with pictures and the JSON into a directory; return the page."""
        from slr_bench.report.views.profile_page import write_page

        return write_page(self.to_dict(), directory, command)

    _repr_html_ = _html


@dataclass(frozen=True)
class Prediction:
    """What one setting, or every cell of a grid, will need."""

    found: SettingPrediction | GridPrediction

    @property
    def does_not_fit(self) -> bool:
        """Whether the setting, or every cell, needs more than the device has."""
        return self.found.does_not_fit

    def to_dict(self) -> Json:
        """Return the JSON of ``slr-bench predict``."""
        return self.found.to_dict()

    def show(self, console: Console) -> None:
        """Print the tables of the command."""
        from slr_bench.predict.grid_prediction import GridPrediction
        from slr_bench.report.views.predict import print_cells, print_prediction

        if isinstance(self.found, GridPrediction):
            print_cells(self.found.cells, self.found.results, console)
        else:
            print_prediction(self.found.cell, self.found.result, self.found.cards, console)

    _repr_html_ = _html


@dataclass(frozen=True)
class Plan:
    """The setting that was chosen for a memory budget, and what it was chosen from."""

    found: PlanFound

    def to_dict(self) -> Json:
        """Return the JSON of ``slr-bench plan``."""
        return self.found.to_dict()

    def show(self, console: Console) -> None:
        """Print the tables of the command."""
        from slr_bench.report.views.plan import print_plan

        print_plan(self.found, console)

    def setting_file(self) -> str:
        """Return the chosen setting as YAML that the other commands read."""
        from slr_bench.report.views.plan import setting_file

        return setting_file(self.found)

    def picture(self) -> Picture:
        """Draw memory against time of everything that was considered, as SVG and PNG."""
        from slr_bench.report.views.plan import plan_picture

        return plan_picture(self.found)

    _repr_html_ = _html


@dataclass(frozen=True)
class RunResult:
    """The records of a run directory that belong to a grid."""

    directory: Path
    totals: Totals

    @property
    def outcomes(self) -> dict[str, int]:
        """Number of runs per outcome."""
        from slr_bench.run.runner import outcome_counts

        return outcome_counts(self.totals.records)

    def to_dict(self) -> Json:
        """Return the JSON of ``slr-bench run``."""
        from statistics import median

        records = self.totals.records
        harness_s = [value for record in records if (value := record.value("harness_s")) is not None]
        return {
            "run_dir": str(self.directory),
            "cells": len({record.cell_id for record in records}),
            "outcomes": self.outcomes,
            "duration_s": self.totals.duration_s,
            "harness_s_per_cell": median(harness_s) if harness_s else None,
        }

    def show(self, console: Console) -> None:
        """Print the heart of the report."""
        from slr_bench.report.formats.terminal import print_summary
        from slr_bench.report.run_report.content import read_content

        print_summary(read_content(self.directory).report, console)

    _repr_html_ = _html


def profile(
    config: str | Path,
    *,
    arm: str | None = None,
    workload: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: str | None = None,
    fake: bool = False,
    on_cell: Callable[[Cell], None] = lambda cell: None,
    on_phase: OnText = _ignore,
) -> Profile:
    """Name every byte at the peak of one step, in a process of its own.

    Raises:
        ConfigError: The grid, the arm or an override is wrong.
        NothingMeasuredError: The setting ran out of memory or cannot run here.
        CellCrashedError: Its process crashed or timed out.
    """
    from slr_bench.grid.cells import own_cell
    from slr_bench.grid.config import load_grid, with_device
    from slr_bench.run.profiler import profile

    grid = with_device(load_grid(Path(config)), device)
    cell = own_cell(grid, dict(overrides or {}), arm, workload)
    on_cell(cell)
    return Profile(profile(grid, cell, fake, on_phase, cuda_rules=fake and device == "cuda"))


def predict(
    config: str | Path,
    *,
    device: str | None = None,
    arm: str | None = None,
    workload: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    whole_grid: bool = False,
    alloc_conf: str = "",
    on_progress: OnText = _ignore,
) -> Prediction:
    """Predict the peak memory of a step on a GPU that need not be here; on every GPU if no ``device`` is named.

    Raises:
        ConfigError: The grid, the arm, an override or the device is wrong.
        NothingMeasuredError: No step can be traced.
    """
    from slr_bench.grid.project_file import use_projects_of
    from slr_bench.predict.device import means_cpu
    from slr_bench.predict.trace_pool import TracePool

    use_projects_of(Path(config).parent)  # before the pool's first process starts, which inherits them
    with TracePool(cuda_rules=not means_cpu(device), start_early=True) as pool:
        from slr_bench.grid.cells import expand, own_cell
        from slr_bench.grid.config import load_grid
        from slr_bench.predict.grid_prediction import Target, predict_grid, predict_setting

        target = Target.from_options(device, alloc_conf)
        if whole_grid and workload is not None:
            raise ConfigError("--grid looks at all workloads; leave --workload out")
        grid, changes = load_grid(Path(config)), dict(overrides or {})
        if not whole_grid:
            return Prediction(predict_setting(own_cell(grid, changes, arm, workload), target, pool))
        done = 0

        def on_traced(*_: object) -> None:
            nonlocal done
            done += 1
            on_progress(f"traced {done} cells")

        return Prediction(predict_grid(expand(grid, changes, arm), target, pool, device, on_traced))


@dataclass(frozen=True)
class PlanOptions:
    """What a plan may use and change; the options of ``slr-bench plan``."""

    gpu_memory: str | None = None
    """Budget, context included, like ``6GiB``; None: all of the device."""
    device: str | None = None
    """GPU whose speed and workspaces count."""
    headroom: float = 5.0
    """Percent of the budget left free."""
    slower: float | None = None
    """Instead: the least memory at this many percent more time at most."""
    keep: Sequence[str] = ()
    """Knobs that stay."""
    allow: Sequence[str] = ()
    """Knobs that may change the model."""
    vary: Sequence[str] = ()
    """``KEY=A,B``: values to choose from in place of a knob's own."""
    alloc_conf: str = ""
    """Settings of the allocator, as in ``PYTORCH_ALLOC_CONF``."""
    measure: bool = False
    """Calibrate and verify on this machine's GPU."""


def plan(
    config: str | Path,
    options: PlanOptions | None = None,
    *,
    arm: str | None = None,
    workload: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    on_progress: OnText = _ignore,
) -> Plan:
    """Choose micro-batch, precision, recomputation and attention for a memory budget.

    Raises:
        ConfigError: The grid, an option or a knob is wrong.
        DoesNotFitError: No setting fits.
        NothingMeasuredError: No setting can be traced, or there is no GPU to measure on.
    """
    from slr_bench.grid.config import load_grid
    from slr_bench.predict.allocator.rules import settings_of
    from slr_bench.predict.device import any_device, find_device, means_cpu
    from slr_bench.predict.plan.planner import Planner, measure_on_gpu
    from slr_bench.predict.plan.result import Budget

    options = options or PlanOptions()
    if means_cpu(options.device):
        raise ConfigError("--device cpu: a plan is for a GPU; use predict --device cpu for the RAM of a setting")
    card = any_device() if options.device is None else find_device(options.device)
    budget = Budget.from_options(card, options.gpu_memory, options.headroom, options.slower)
    settings = settings_of(options.alloc_conf)
    choices = (options.keep, options.allow, options.vary)
    planner = Planner(load_grid(Path(config)), dict(overrides or {}), arm, workload, card, *choices, settings)
    if options.measure:
        from slr_bench.run.driver import has_cuda

        if not has_cuda():
            raise NothingMeasuredError(
                "--measure runs settings on a GPU, and torch sees none here; without it a plan predicts"
            )
    return Plan(planner.plan(budget, on_progress, measure_on_gpu if options.measure else None))


class _Quiet:
    """Receives the progress of a run and shows none of it."""

    def planned(self, *_: object) -> None: ...
    def started(self, *_: object) -> None: ...
    def progressed(self, *_: object) -> None: ...
    def finished(self, *_: object) -> None: ...


@contextmanager
def _no_view() -> Iterator[Listener]:
    yield _Quiet()


@dataclass(frozen=True)
class RunOptions:
    """How a grid is run; the options of ``slr-bench run``."""

    out: Path | None = None
    """Run directory; None: ``reports/latest``, where one of another source is set aside."""
    fresh: bool = False
    """Set an existing run directory aside."""
    device: str | None = None
    """``auto``, ``cpu`` or ``cuda``, in place of the grid's."""
    fake: bool = False
    """Trace bytes on fake tensors."""
    retry: bool = False
    """Repeat crashed and timed-out runs."""
    skip: bool = True
    """Skip what is larger than a cell that ran out of memory."""
    twice: bool = False
    """Measure every cell as both sides (A/A test)."""


def run(
    config: str | Path,
    options: RunOptions | None = None,
    *,
    arm: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    command: str = "slr_bench.run(...)",
    view: Callable[[], AbstractContextManager[Listener]] = _no_view,
    on_progress: OnText = _ignore,
) -> RunResult:
    """Run the cells of a grid, each in processes of its own; finished runs are kept and resumed.

    ``command`` is written into the run directory; ``view`` receives the runner's events.

    Raises:
        ConfigError: The grid, an option or the run directory is wrong.
        NothingMeasuredError: No run gave a result.
    """
    from slr_bench.grid.cells import expand
    from slr_bench.grid.config import load_grid, with_device
    from slr_bench.run.binding import BoundElsewhereError
    from slr_bench.run.runner import Runner
    from slr_bench.run.store import Store

    options = options or RunOptions()
    grid = with_device(load_grid(Path(config)), options.device)
    grid = grid.model_copy(update={"sides": 2}) if options.twice else grid
    grid = grid.repeated(1) if options.fake else grid  # fake tensors give the same bytes in every process
    cells = expand(grid, dict(overrides or {}), arm)
    directory = options.out or DEFAULT_RUN_DIRECTORY
    store = Store(directory)
    runner = Runner(grid, cells, store, fake=options.fake, command=command, retry=options.retry, skip=options.skip)

    def measure() -> RunResult:
        on_progress("starting: importing torch once for all cells")
        with view() as listener:
            return RunResult(directory, runner.run(listener))

    if options.fresh:
        _set_aside(directory, on_progress)
    try:
        return measure()
    except BoundElsewhereError:
        if options.out is not None:
            raise
        _set_aside(directory, on_progress)
        return measure()


def _set_aside(directory: Path, on_progress: OnText) -> None:
    """Rename a run directory to the next free ``NAME-<n>``, so that nothing finished is lost."""
    from slr_bench.run.store import Store

    if not directory.exists():
        return
    if not directory.is_dir():
        raise ConfigError(f"{directory} is a file, not a run directory; choose another with --out")
    if not (directory / "grid.json").is_file() and any(directory.iterdir()):
        raise ConfigError(f"{directory} holds something else than runs; choose another with --out")
    number = 1
    while (target := directory.with_name(f"{directory.name}-{number}")).exists():
        number += 1
    with Store(directory).locked():  # a run that goes on in it must not lose it
        directory.rename(target)
    on_progress(f"the earlier runs in {directory} are now in {target}")


@dataclass(frozen=True)
class CompareOptions:
    """How two revisions are measured before they are compared; the options of ``slr-bench compare`` and ``gate``."""

    config: Path | None = None
    """Grid file [default: ``configs/ablation.yml``]."""
    overrides: Mapping[str, Any] | None = None
    """Dotted keys over the grid's settings."""
    workload: str | None = None
    """Only this workload of the grid."""
    repeats: int | None = None
    """Pairs of processes per cell, in place of the grid's."""
    device: str | None = None
    """``auto``, ``cpu`` or ``cuda``, in place of the grid's."""
    fake: bool = False
    """Trace bytes on fake tensors."""
    out: Path | None = None
    """Keep the runs in ``DIR/base`` and ``DIR/head``; None: keep them nowhere."""

    @property
    def given(self) -> list[str]:
        """Options that differ from their defaults, as the commands write them."""
        values = {"--set": self.overrides} | {
            f"--{name}": getattr(self, name) for name in ("config", "workload", "repeats", "device", "fake", "out")
        }
        return [name for name, value in values.items() if value]


def compare(
    base: str | Path,
    head: str | Path | None = None,
    options: CompareOptions | None = None,
    *,
    arm: str | None = None,
    command: str = "slr_bench.compare(...)",
    view: Callable[[], AbstractContextManager[Listener]] = _no_view,
    on_progress: OnText = _ignore,
) -> Comparison:
    """Compare two run directories, both sides of one, or two revisions that are measured first, interleaved.

    Raises:
        NoBaselineError: ``base`` is neither a run directory nor a revision, or none of its runs ended ok.
        NotComparableError: The two have no cell in common.
        ConfigError: An option is wrong, or does not apply to runs that exist.
    """
    from slr_bench.compare.comparison import compare_runs, compare_sides
    from slr_bench.compare.sources import RevisionPair, TwoSides, find_sources
    from slr_bench.record import public_word

    options = options or CompareOptions()
    base, head = str(base), None if head is None else str(head)
    found = find_sources(base, head, Path.cwd())
    if isinstance(found, RevisionPair):
        return _compare_revisions(found, options, arm, command, view, on_progress)
    if options.given:
        raise ConfigError(f"{options.given[0]} says what to measure, and {base} was measured before; leave it out")
    if isinstance(found, TwoSides):
        return compare_sides(found.directory, name=public_word(base), arm=arm)
    return compare_runs(found.base, found.head, names=(public_word(base), public_word(head or "")), arm=arm)


def _compare_revisions(
    pair: RevisionPair,
    options: CompareOptions,
    arm: str | None,
    command: str,
    view: Callable[[], AbstractContextManager[Listener]],
    on_progress: OnText,
) -> Comparison:
    from slr_bench.compare.comparison import compare_runs
    from slr_bench.grid.config import load_grid, with_device
    from slr_bench.run.revisions import git
    from slr_bench.run.revisions.measure import MeasurementRequest, measure_interleaved

    if not pair.head.is_working_tree and not pair.base.is_working_tree and git.is_dirty(pair.top):
        on_progress("warning: the working tree has changes that no commit has; they are not measured (name it with .)")
    grid = with_device(load_grid(options.config or DEFAULT_GRID), options.device).model_copy(update={"sides": 1})
    grid = grid.of_workload(options.workload) if options.workload else grid
    repeats = 1 if options.fake and options.repeats is None else options.repeats
    grid = grid.repeated(repeats) if repeats else grid
    request = MeasurementRequest(grid, dict(options.overrides or {}), arm, options.fake, command)
    on_progress("starting: checking both sides out, importing torch once a side")
    with (
        view() as listener,
        measure_interleaved(pair.top, (pair.base, pair.head), request, options.out, listener) as directories,
    ):
        comparison = compare_runs(*directories, arm=arm)
    if comparison.crashed and options.out is None:
        on_progress("warning: cells crashed; their logs are kept with --out DIR")
    return comparison


def gate(comparison: Comparison, rules: RuleSet | Sequence[str]) -> GateResult:
    """Judge a comparison by rules like ``peak_tensor_bytes:0%``.

    Raises:
        ConfigError: A rule is wrong.
    """
    from slr_bench.compare.gate import judge_gate
    from slr_bench.compare.rules import RuleSet, gather_rules

    return judge_gate(comparison, rules if isinstance(rules, RuleSet) else gather_rules(list(rules), [], []))


def calibrate(
    config: str | Path, *, overrides: Mapping[str, Any] | None = None, on_progress: OnText = _ignore
) -> Calibration:
    """Measure this machine's GPU for predictions: context, workspaces, allocator histories.

    Raises:
        NothingMeasuredError: There is no GPU, or no step could be recorded.
    """
    from slr_bench.grid.cells import expand
    from slr_bench.grid.config import load_grid
    from slr_bench.predict.calibrate import calibrate_gpu

    return calibrate_gpu(expand(load_grid(Path(config)), dict(overrides or {})), on_progress)


def replay(
    snapshot: str | Path,
    *,
    settings: str | None = None,
    capacity_bytes: int | None = None,
    device: int | None = None,
    torch_version: str = "2.14",
) -> SnapshotReplay:
    """Replay a recorded allocator history, as it was or under other settings of the allocator.

    Raises:
        ConfigError: The file is no snapshot, or a setting is unknown.
    """
    from slr_bench.predict.allocator.replay import replay_snapshot

    return replay_snapshot(Path(snapshot), settings, capacity_bytes, device, torch_version)


def report(run_dir: str | Path) -> RunContent:
    """Read a run directory as its report shows it.

    Raises:
        NothingMeasuredError: The directory holds no record.
    """
    from slr_bench.report.run_report.content import read_content

    return read_content(Path(run_dir))


class Watcher(NamedTuple):
    """Readings of memory, now."""

    reader: LiveReader
    """Its ``read()`` gives one reading."""
    no_gpu: str | None
    """The reason that no GPU can be read."""


def watch(pid: int | None = None) -> Watcher:
    """Open the meters of a process tree, or of the whole machine."""
    import os

    from slr_bench.probes.live import LiveReader, open_gpus
    from slr_bench.probes.nvml import load_library
    from slr_bench.probes.tree import tree_pids

    own = os.getpid()  # a watcher that was started from the shell it watches would count itself

    def read_tree(root: int) -> list[int]:
        return [number for number in tree_pids(root) if number != own or number == root]

    gpus, no_gpu = [], None
    try:
        gpus = open_gpus(load_library())
    except ProbeUnavailableError as error:
        no_gpu = str(error)
    return Watcher(LiveReader(pid, gpus, read_tree=read_tree), no_gpu)

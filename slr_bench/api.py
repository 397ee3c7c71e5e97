"""The Python interface: one function per command, on grid files and training files, with typed results.

    import slr_bench

    slr_bench.predict("configs/ablation.yml", arm="optimized", device="24GiB").does_not_fit

A ``Profile``, ``Prediction``, ``Plan``, ``RunResult`` or ``Comparison`` has ``to_dict()``, the JSON of the command, and
is shown as a table in a notebook. This module does not import torch; work that needs torch runs in child processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slr_bench.errors import ConfigError, NothingMeasuredError
from slr_bench.options import DEFAULT_GRID, DEFAULT_RUN_DIRECTORY, CompareOptions, PlanOptions, RunOptions
from slr_bench.results import Plan, Prediction, Profile, RunResult

if TYPE_CHECKING:
    from slr_bench.compare.comparison import Comparison
    from slr_bench.compare.gate import GateResult
    from slr_bench.compare.rules import RuleSet
    from slr_bench.compare.sources import RevisionPair
    from slr_bench.grid.cells import Cell
    from slr_bench.grid.config import GridConfig
    from slr_bench.predict.allocator.verdict import SnapshotReplay
    from slr_bench.predict.calibrate import Calibration
    from slr_bench.probes.live import Watcher
    from slr_bench.run.runner import Listener

OnText = Callable[[str], None]
"""Receives one line of progress."""
View = Callable[[], AbstractContextManager["Listener"]]
"""Opens a view that receives the events of a run."""


def _ignore(text: str) -> None:
    pass


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
    gpu_memory: str | None = None,
    arm: str | None = None,
    workload: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    whole_grid: bool = False,
    alloc_conf: str = "",
    on_progress: OnText = _ignore,
) -> Prediction:
    """Predict the peak memory of a step on a GPU, which need not be in this machine; without ``device``, on every GPU.

    Raises:
        ConfigError: The grid, the arm, an override or the device is wrong.
        NothingMeasuredError: No step can be traced.
    """
    from slr_bench.grid.project_file import use_projects_of
    from slr_bench.predict.trace_pool import TracePool

    use_projects_of(Path(config).parent)  # before the pool's first process starts, which inherits them
    with TracePool(start_early=True) as pool:
        from dataclasses import replace

        from slr_bench.grid.cells import GpuCell, expand, own_cell, own_gpu_cell
        from slr_bench.grid.config import load_grid
        from slr_bench.predict.predictions import Target, predict_grid, predict_setting

        target = Target.from_options(device, gpu_memory, alloc_conf)
        if whole_grid and workload is not None:
            raise ConfigError("--grid looks at all workloads; leave --workload out")
        grid, changes = load_grid(Path(config)), dict(overrides or {})
        if not whole_grid:
            is_gpu = target.card is not None
            own = (grid, changes, arm, workload)
            cell, refusal = own_gpu_cell(*own) if is_gpu else GpuCell(own_cell(*own))
            return Prediction(replace(predict_setting(cell, target, pool), loader_refusal=refusal))
        steps = [cell for cell in expand(grid, changes, arm) if cell.spec.kind == "step"]
        done = itertools.count(1)

        def on_traced(*_: object) -> None:
            on_progress(f"traced {next(done)} of {len(steps)} cells")

        return Prediction(predict_grid(steps, target, pool, device, on_traced))


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
    from slr_bench.predict.device import choose_device, means_cpu
    from slr_bench.predict.plan.planner import Planner, measure_on_gpu
    from slr_bench.predict.plan.result import Budget

    options = options or PlanOptions()
    if means_cpu(options.device):
        raise ConfigError("--device cpu: a plan is for a GPU; use predict --device cpu for the RAM of a setting")
    card = choose_device(options.device, options.gpu_memory)
    budget = Budget.from_options(card, options.gpu_memory, options.headroom, options.slower)
    settings = settings_of(options.alloc_conf)
    choices = (options.keep, options.allow, options.vary)
    planner = Planner(load_grid(Path(config)), dict(overrides or {}), arm, workload, card, *choices, settings)
    if options.measure:
        from slr_bench.run.cell_runner import has_cuda

        if not has_cuda():
            raise NothingMeasuredError(
                "--measure runs settings on a GPU, and torch finds none here; without --measure a plan predicts"
            )
    return Plan(planner.plan(budget, on_progress, measure_on_gpu if options.measure else None))


class _Quiet:
    """Receives the progress of a run and shows none of it."""

    def scheduled(self, *_: object) -> None: ...
    def started(self, *_: object) -> None: ...
    def progressed(self, *_: object) -> None: ...
    def finished(self, *_: object) -> None: ...


@contextmanager
def _no_view() -> Iterator[Listener]:
    yield _Quiet()


def run(
    config: str | Path,
    options: RunOptions | None = None,
    *,
    arm: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    command: str = "slr_bench.run(...)",
    view: View = _no_view,
    on_progress: OnText = _ignore,
) -> RunResult:
    """Run the cells of a grid, each in processes of its own. Runs that an earlier call finished are kept.

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
    grid = _repeated(grid, options.repeats, options.fake)
    cells = expand(grid, dict(overrides or {}), arm)
    directory = options.out or DEFAULT_RUN_DIRECTORY
    store = Store(directory)
    runner = Runner(grid, cells, store, fake=options.fake, command=command, retry=options.retry, skip=options.skip)

    def measure() -> RunResult:
        on_progress("starting: importing torch once for all cells")
        with view() as listener:
            return RunResult(directory, runner.run(listener))

    if options.fresh:
        _rename_earlier(directory, on_progress)
    try:
        return measure()
    except BoundElsewhereError:
        if options.out is not None:
            raise
        _rename_earlier(directory, on_progress)
        return measure()


def _repeated(grid: GridConfig, repeats: int | None, fake: bool) -> GridConfig:
    """Return the grid with this number of processes per cell; by default with its own, or one on fake tensors."""
    repeats = 1 if fake and repeats is None else repeats
    return grid if repeats is None else grid.repeated(repeats)


def _rename_earlier(directory: Path, on_progress: OnText) -> None:
    from slr_bench.run.store import set_aside

    renamed = set_aside(directory)
    if renamed is not None:
        on_progress(f"the earlier runs in {directory} are now in {renamed}")


def compare(
    base: str | Path,
    head: str | Path | None = None,
    options: CompareOptions | None = None,
    *,
    arm: str | None = None,
    command: str = "slr_bench.compare(...)",
    view: View = _no_view,
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
    if options.first_set:
        raise ConfigError(f"{options.first_set} says what to measure, and {base} was measured before; leave it out")
    if isinstance(found, TwoSides):
        return compare_sides(found.directory, name=public_word(base), arm=arm)
    return compare_runs(found.base, found.head, names=(public_word(base), public_word(head or "")), arm=arm)


def _compare_revisions(
    pair: RevisionPair,
    options: CompareOptions,
    arm: str | None,
    command: str,
    view: View,
    on_progress: OnText,
) -> Comparison:
    from slr_bench.compare.comparison import compare_runs
    from slr_bench.grid.config import load_grid, with_device
    from slr_bench.run.revisions import git
    from slr_bench.run.revisions.measure import MeasurementRequest, measure_interleaved

    if not pair.head.is_working_tree and not pair.base.is_working_tree and git.is_dirty(pair.top):
        on_progress("warning: uncommitted changes are not measured; to measure the working tree, name it as .")
    grid = with_device(load_grid(options.config or DEFAULT_GRID), options.device).model_copy(update={"sides": 1})
    grid = grid.with_workload(options.workload) if options.workload else grid
    grid = _repeated(grid, options.repeats, options.fake)
    request = MeasurementRequest(grid, dict(options.overrides or {}), arm, options.fake, command)
    on_progress("starting: checking both sides out, importing torch once per side")
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
    """Replay a recorded allocator history under its own or under other settings of the allocator.

    Raises:
        ConfigError: The file is no snapshot, or a setting is unknown.
    """
    from slr_bench.predict.allocator.verdict import replay_snapshot

    return replay_snapshot(Path(snapshot), settings, capacity_bytes, device, torch_version)


def watch(pid: int | None = None) -> Watcher:
    """Open the meters of a process tree, or of the whole machine."""
    from slr_bench.probes.live import open_watcher

    return open_watcher(pid)

"""Plan for a grid's setting: trace its cells as the search needs them, and run some on the GPU. Imports no torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from slr_bench.errors import ConfigError, NothingMeasuredError
from slr_bench.files import flatten
from slr_bench.grid.cells import Cell, own_gpu_cell
from slr_bench.grid.config import GridConfig, with_device
from slr_bench.predict.allocator.rules import DEFAULT_SETTINGS, AllocatorSettings
from slr_bench.predict.device import Device
from slr_bench.predict.peak import predict_step
from slr_bench.predict.plan.choices import Overrides, at_size, choices_of, parse_vary
from slr_bench.predict.plan.result import Budget, Choice, DoesNotFitError, Evaluated, Measured, Plan, Point
from slr_bench.predict.plan.search import IMPOSSIBLE, find_fastest, find_smallest, verify
from slr_bench.predict.rates import calibrate_rates
from slr_bench.predict.trace_pool import Refusal, StepProfile, TracePool
from slr_bench.record import Outcome, Record
from slr_bench.units import format_bytes, format_count

if TYPE_CHECKING:
    from slr_bench.run.schedule import Run

_RUNS: Final = 3
"""Settings that run on the GPU at a time."""
_MEMORY_METRICS: Final = ("nvml_process_peak_bytes", "peak_reserved_bytes")

OnProgress = Callable[[str], None]
Measure = Callable[[GridConfig, Sequence[Cell], OnProgress], Sequence[Measured]]
"""Runs cells on the GPU (:func:`measure_on_gpu`)."""


class Planner:
    """Plans for one arm's own setting of a grid."""

    def __init__(
        self,
        grid: GridConfig,
        overrides: Mapping[str, Any],
        arm: str | None,
        workload: str | None,
        device: Device,
        keep: Sequence[str] = (),
        allow: Sequence[str] = (),
        vary: Sequence[str] = (),
        settings: AllocatorSettings = DEFAULT_SETTINGS,
    ) -> None:
        """Read what the plan may choose from.

        ``keep``, ``allow`` and ``vary`` are as in :func:`choices_of`, the latter as texts ``KEY=A,B``; ``settings`` are
        the allocator's.

        Raises:
            ConfigError: a knob or key is unknown, or a value is impossible in every setting.
        """
        self._grid = grid.model_copy(update={"repeats": 1, "sides": 1})
        self._overrides, self._arm, self._workload = overrides, arm, workload
        self._device, self._rates, self._settings = device, device.rates, settings
        self._own = own_gpu_cell(self._grid, dict(overrides), arm, workload).cell
        self._loader_refusals: dict[Point, str] = {}
        if self._own.spec.kind != "step":
            raise ConfigError(f"workload {self._own.spec.name} is a whole training; plan for a step with --workload")
        self._keep = keep
        self._choices = choices_of(self._own, keep, allow, parse_vary(vary), device.capability)
        self._cells: dict[Point, Cell] = {}
        self._refuse_impossible_values()

    def plan(self, budget: Budget, on_progress: OnProgress = lambda text: None, measure: Measure | None = None) -> Plan:
        """Search for the best setting within the budget.

        With ``measure``, the first choice and its neighbours run on the GPU, the rates are calibrated, and the search
        is repeated. Its choice runs, too: a setting that does not fit after all is passed over, at most three times.

        Raises:
            DoesNotFitError: no setting fits.
            NothingMeasuredError: no setting can be traced.
        """
        with TracePool() as pool:
            samples = self._samples_to_keep(pool)
            choice = self._search(budget, pool, samples, on_progress)
            if measure is None:
                return self._make_plan(choice, budget, {})
            measured = self._calibrate(choice, budget, on_progress, measure)
            choice = self._search(budget, pool, samples, on_progress)

        def measure_point(point: Point) -> Measured:
            return measured.get(point) or measure(self._grid, [self._cells[point]], on_progress)[0]

        point, verified = verify(choice, measure_point, budget.room_bytes, _RUNS)
        if point is None:
            raise DoesNotFitError(
                f"the {len(verified)} fastest that should fit do not on this GPU; give more --headroom"
            )
        return self._make_plan(replace(choice, chosen=point), budget, measured | verified)

    def _samples_to_keep(self, pool: TracePool) -> int | None:
        """Units of data per step that every setting must take; None if the effective batch is known and kept anyway.

        A value of ``--vary`` may change that number if the workload does not declare which keys do.
        """
        if not self._choices.named or self._own.spec.batch_keys is not None:
            return None
        (own,) = pool.trace([self._own], cuda_rules=True)
        return None if isinstance(own, Refusal) else own.samples_per_step

    def _search(self, budget: Budget, pool: TracePool, samples: int | None, on_progress: OnProgress) -> Choice:
        done, most = 0, len(self._choices.options) * len(self._choices.sizes)
        # The least memory does not depend on the card's capacity: no cached memory is given back to reach it.
        device = replace(self._device, capacity_bytes=budget.bytes if budget.slower is None else None)

        def evaluate(points: Sequence[Point]) -> list[Evaluated | Refusal]:
            nonlocal done
            cells = [self._cell(point) for point in points]
            possible = [cell for cell in cells if isinstance(cell, Cell)]
            done_after = done + len(possible)

            def on_traced(*_: object) -> None:
                nonlocal done
                done += 1
                left = f"{done_after - done} left in this round, at most {most - done} in all"
                on_progress(f"traced {format_count(done, 'setting')}, {left}")

            traced = iter(pool.trace(possible, True, on_traced))
            done = done_after  # equal settings are traced once
            results = [cell if isinstance(cell, Refusal) else next(traced) for cell in cells]
            return [self._evaluate(result, device, samples) for result in results]

        options, sizes = len(self._choices.options), self._choices.sizes
        if budget.slower is not None:
            return find_smallest(options, sizes, evaluate, budget.slower)
        assert budget.bytes is not None, "the fastest needs a budget"
        try:
            return find_fastest(options, sizes, evaluate, budget.bytes)
        except DoesNotFitError as error:
            less = f" ({format_bytes(budget.total_bytes)} less {100 * budget.headroom:g} % headroom)"
            text = str(error).replace(":", f"{less}:", 1) if budget.headroom else str(error)
            raise DoesNotFitError(f"{text}; try {self._cures()}") from error

    def _cures(self) -> str:
        """Name the options that may help if nothing fits the budget."""
        cures = [f"leave out --keep {name}" for name in self._keep]
        cures += [f"--allow {name}" for name in self._choices.allowable]
        return " or ".join([*cures, "a smaller effective batch or model"])

    def _calibrate(
        self, choice: Choice, budget: Budget, on_progress: OnProgress, measure: Measure
    ) -> dict[Point, Measured]:
        """Measure the choice and the slowest points that fit: they differ from it most in what a step consists of."""
        others = [
            point
            for point, one in choice.evaluated.items()
            if one.need_bytes <= budget.room_bytes and point != choice.chosen
        ]
        others.sort(key=lambda point: -choice.evaluated[point].seconds)
        points = [choice.chosen, *others[: _RUNS - 1]]
        results = measure(self._grid, [self._cells[point] for point in points], on_progress)
        measured = dict(zip(points, results, strict=True))
        works, seconds = [], []
        for point, result in measured.items():
            prediction = choice.evaluated[point].prediction
            assert prediction is not None
            if result.seconds is not None:
                works.append(prediction.step.work)
                seconds.append(result.seconds)
        if works:
            self._rates = calibrate_rates(self._rates, works, seconds)
        return measured

    def _make_plan(self, choice: Choice, budget: Budget, measured: Mapping[Point, Measured]) -> Plan:
        points = [*choice.evaluated, *(one.point for one in choice.rejected)]
        return Plan(
            choice,
            budget,
            self._device,
            {point: self._cells[point] for point in choice.evaluated},
            {point: self._difference(point) for point in points},
            [*self._choices.left_alone, *self._loader_needs(choice.chosen)],
            self._rates,
            measured,
        )

    def _loader_needs(self, chosen: Point) -> list[str]:
        """Say what the loader would need for the chosen setting."""
        refusal = self._loader_refusals.get(chosen)
        return [] if refusal is None else [f"the loader would refuse this setting without the change: {refusal}"]

    def _cell(self, point: Point) -> Cell | Refusal:
        """The cell of a point, unless the combination is impossible."""
        overrides = {**self._overrides, **self._changes(point)}
        try:
            cell, refusal = own_gpu_cell(self._grid, overrides, self._arm, self._workload)
        except ConfigError as error:
            return Refusal(f"{IMPOSSIBLE}: {error}")
        self._cells[point] = cell
        if refusal is not None:
            self._loader_refusals[point] = refusal
        return cell

    def _changes(self, point: Point) -> Overrides:
        return {**self._choices.options[point.option], **at_size(self._own, point.size)}

    def _difference(self, point: Point) -> Overrides:
        own = flatten(self._own.settings.model_dump(mode="json"))
        changes = self._changes(point)
        if point in self._loader_refusals:
            changes = {**changes, **dict.fromkeys(self._own.spec.loader_limits)}
        return {key: value for key, value in changes.items() if own.get(key) != value}

    def _evaluate(self, step: StepProfile | Refusal, device: Device, samples: int | None) -> Evaluated | Refusal:
        if isinstance(step, Refusal):
            return step
        incompatibility = device.incompatibility(step)
        if incompatibility is not None:
            return Refusal(incompatibility)
        if samples is not None and step.samples_per_step != samples:
            unit = self._own.spec.unit
            return Refusal(f"takes {step.samples_per_step} {unit}s per step, but the given setting takes {samples}")
        prediction = predict_step(step, device, settings=self._settings)
        return Evaluated(prediction.nvml.high, self._rates.step_seconds(step.work), prediction)

    def _refuse_impossible_values(self) -> None:
        """Require that each value of ``--vary`` is possible in at least one setting."""
        for value in self._choices.named:
            cells = (
                self._cell(Point(option, size))
                for option, changes in enumerate(self._choices.options)
                if value.items() <= changes.items()
                for size in self._choices.sizes
            )
            refusals = []
            for cell in cells:
                if isinstance(cell, Cell):
                    break
                refusals.append(cell.reason)
            else:
                (key,) = value
                raise ConfigError(f"--vary {key}: {refusals[0]}")


def measure_on_gpu(grid: GridConfig, cells: Sequence[Cell], on_progress: OnProgress) -> list[Measured]:
    """Run each cell once on the GPU, in a process of its own; the records are not kept.

    Raises:
        NothingMeasuredError: a cell was neither measured nor out of memory, as on a machine without a GPU.
    """
    from slr_bench.run.runner import Runner
    from slr_bench.run.store import Store

    distinct = list({cell.cell_id: cell for cell in cells}.values())
    with tempfile.TemporaryDirectory(prefix="slr-bench-") as directory:
        store = Store(Path(directory))
        runner = Runner(with_device(grid, "cuda"), distinct, store, fake=False, command="slr-bench plan", skip=False)
        totals = runner.run(_ProgressAdapter(on_progress))
    records = {record.cell_id: record for record in totals.records}
    return [measured_of(records[cell.cell_id]) for cell in cells]


def measured_of(record: Record) -> Measured:
    """Read memory and time from a record.

    Raises:
        NothingMeasuredError: the run failed, other than by running out of memory.
    """
    if record.outcome is Outcome.OOM_GPU:
        return Measured(None, None)
    if record.outcome is not Outcome.OK:
        raise NothingMeasuredError(f"the setting ended as {record.outcome}: {record.reason}")
    values = {name: metric.value for name, metric in record.metrics.items()}
    memory = next((values[name] for name in _MEMORY_METRICS if values.get(name) is not None), None)
    if memory is None:
        raise NothingMeasuredError(
            "the setting ran, but neither NVML nor torch reported its GPU memory; see slr-bench doctor"
        )
    seconds = values.get("step_time_s")
    return Measured(int(memory), None if seconds is None else float(seconds))


class _ProgressAdapter:
    """Turns the runner's events into lines of text."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress

    def scheduled(self, runs: Sequence[Run], finished: int, note: str | None) -> None:
        self._on_progress(f"measuring {len(runs)} settings")

    def started(self, run: Run) -> None:
        self._on_progress(f"measuring {run.name}")

    def progressed(self, run: Run, phase: str) -> None:
        self._on_progress(f"measuring {run.name}: {phase}")

    def finished(self, run: Run, record: Record) -> None:
        self._on_progress(f"measured {run.name}: {record.outcome}")

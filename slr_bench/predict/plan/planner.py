"""A plan for a grid's setting: its cells, traced as the search asks for them, on a device. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from slr_bench.errors import ConfigError
from slr_bench.files import flatten
from slr_bench.grid.cells import Cell, own_cell
from slr_bench.grid.config import GridConfig
from slr_bench.predict.allocator.rules import AllocatorSettings
from slr_bench.predict.cost import calibrated
from slr_bench.predict.device import Device
from slr_bench.predict.peak import predicted
from slr_bench.predict.plan.choices import Choices, at_size, choices_of, parse_vary
from slr_bench.predict.plan.result import Budget, Planned
from slr_bench.predict.plan.search import (
    IMPOSSIBLE,
    DoesNotFitError,
    Evaluated,
    Plan,
    Point,
    Probed,
    fastest,
    smallest,
    verified,
)
from slr_bench.predict.trace_pool import Foresight
from slr_bench.units import format_bytes

_PROBES: Final = 3
"""Settings run for real at a time."""

Progressed = Callable[[str], None]
Measure = Callable[[GridConfig, Sequence[Cell], Progressed], Sequence[Probed]]
"""Runs cells for real (``predict.probing.measured``)."""


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
        settings: AllocatorSettings | None = None,
    ) -> None:
        """``settings``: of the allocator.

        Raises:
            ConfigError: a knob or key that there is not, or a value that no setting can have.
        """
        self._grid = grid.model_copy(update={"repeats": 1, "sides": 1})
        self._overrides, self._arm, self._workload = overrides, arm, workload
        self._device, self._rates, self._settings = device, device.rates, settings
        self._own = own_cell(self._grid, dict(overrides), arm, workload)
        if self._own.spec.kind != "step":
            raise ConfigError(f"workload {self._own.spec.name} is a whole training; plan for a step with --workload")
        self._keep = keep
        self._choices: Choices = choices_of(self._own, keep, allow, parse_vary(vary), device.capability)
        self._cells: dict[Point, Cell] = {}
        self._clips: int | None = None
        """That a step has to take; None: the effective batch is known, and kept."""
        self._refuse_impossible_values()

    def plan(
        self, budget: Budget, progressed: Progressed = lambda text: None, measure: Measure | None = None
    ) -> Planned:
        """The plan. With ``measure`` the first choice and its neighbours are run, the rates calibrated, the choice made
        anew, and run: what was predicted to fit and does not is passed over, three times at most.

        Raises:
            DoesNotFitError: nothing fits.
            NothingMeasuredError: nothing can be traced.
        """
        with Foresight(cuda_rules=True) as foresight:
            self._look_at_own(foresight)
            plan = self._search(budget, foresight, progressed)
            if measure is None:
                return self._planned(plan, budget, {})
            probed = self._calibrate(plan, budget, progressed, measure)
            plan = self._search(budget, foresight, progressed)

        def probe(point: Point) -> Probed:
            return probed.get(point) or measure(self._grid, [self._cells[point]], progressed)[0]

        point, seen = verified(plan, probe, budget.room_bytes, _PROBES)
        if point is None:
            raise DoesNotFitError(f"the {len(seen)} fastest that should fit do not on this GPU; give more --headroom")
        return self._planned(replace(plan, chosen=point), budget, probed | seen)

    def _look_at_own(self, foresight: Foresight) -> None:
        """A named value may change how many units a step takes, where the workload does not say which keys do."""
        if self._choices.named and self._own.spec.batch_keys is None:
            (own,) = foresight.foresee([self._own])
            self._clips = None if isinstance(own, str) else own["samples_per_step"]

    def _search(self, budget: Budget, foresight: Foresight, progressed: Progressed) -> Plan:
        done = 0
        # The least memory is looked for whatever the card holds: nothing is given back for its sake.
        device = replace(self._device, capacity_bytes=budget.bytes if budget.slower is None else None)

        def evaluate(points: Sequence[Point]) -> list[Evaluated | str]:
            nonlocal done
            found = [self._cell(point) for point in points]
            traced = iter(foresight.foresee([cell for cell in found if isinstance(cell, Cell)]))
            results = [cell if isinstance(cell, str) else self._evaluated(next(traced), device) for cell in found]
            done += len(points)
            progressed(f"{done} settings traced")
            return results

        options, sizes = len(self._choices.options), self._choices.sizes
        if budget.slower is not None:
            return smallest(options, sizes, evaluate, budget.slower)
        assert budget.bytes is not None, "the fastest needs a budget"
        try:
            return fastest(options, sizes, evaluate, budget.bytes)
        except DoesNotFitError as error:
            less = f" ({format_bytes(budget.total_bytes)} less {100 * budget.headroom:g} % headroom)"
            text = str(error).replace(":", f"{less}:", 1) if budget.headroom else str(error)
            raise DoesNotFitError(f"{text}; try {self._cures()}") from error

    def _cures(self) -> str:
        """For a budget that nothing fits."""
        cures = [f"leave out --keep {name}" for name in self._keep]
        cures += [f"--allow {name}" for name in self._choices.allowable]
        return " or ".join([*cures, "a smaller effective batch or model"])

    def _calibrate(self, plan: Plan, budget: Budget, progressed: Progressed, measure: Measure) -> dict[Point, Probed]:
        """Measure the choice and the points that fit and differ from it most in what a step consists of."""
        others = [
            point
            for point, found in plan.evaluated.items()
            if found.need_bytes <= budget.room_bytes and point != plan.chosen
        ]
        others.sort(key=lambda point: -plan.evaluated[point].seconds)
        points = [plan.chosen, *others[: _PROBES - 1]]
        seen = dict(zip(points, measure(self._grid, [self._cells[point] for point in points], progressed), strict=True))
        timed = [(self._traced(plan, point), one.seconds) for point, one in seen.items() if one.seconds is not None]
        if timed:
            self._rates = calibrated(self._rates, [traced for traced, _ in timed], [seconds for _, seconds in timed])
        return seen

    def _traced(self, plan: Plan, point: Point) -> Mapping[str, Any]:
        prediction = plan.evaluated[point].prediction
        assert prediction is not None
        return prediction.foreseen

    def _planned(self, plan: Plan, budget: Budget, probed: Mapping[Point, Probed]) -> Planned:
        points = [*plan.evaluated, *(one.point for one in plan.rejected)]
        return Planned(
            plan,
            budget,
            self._device,
            {point: self._cells[point] for point in plan.evaluated},
            {point: self._difference(point) for point in points},
            self._choices.left_alone,
            self._rates.source,
            probed,
        )

    def _cell(self, point: Point) -> Cell | str:
        """The cell of a point; a text where the combination is impossible."""
        overrides = {**self._overrides, **self._changes(point)}
        try:
            cell = own_cell(self._grid, overrides, self._arm, self._workload)
        except ConfigError as error:
            return f"{IMPOSSIBLE}: {error}"
        self._cells[point] = cell
        return cell

    def _changes(self, point: Point) -> dict[str, Any]:
        return {**self._choices.options[point.option], **at_size(self._own, point.size)}

    def _difference(self, point: Point) -> dict[str, Any]:
        own = flatten(self._own.settings.model_dump(mode="json"))
        return {key: value for key, value in self._changes(point).items() if own.get(key) != value}

    def _evaluated(self, traced: Mapping[str, Any] | str, device: Device) -> Evaluated | str:
        if isinstance(traced, str):
            return traced
        lacks = device.lacks(traced)
        if lacks is not None:
            return lacks
        if self._clips is not None and traced["samples_per_step"] != self._clips:
            taken = f"takes {traced['samples_per_step']} {self._own.spec.unit}s a step"
            return f"{taken}, the setting given {self._clips}: another step"
        prediction = predicted(traced, device, settings=self._settings)
        return Evaluated(prediction.nvml.high, self._rates.seconds(traced), prediction)

    def _refuse_impossible_values(self) -> None:
        """Values that the user named (``--vary``): each must be possible in one setting at least."""
        for value in self._choices.named:
            cells = (
                self._cell(Point(place, size))
                for place, option in enumerate(self._choices.options)
                if value.items() <= option.items()
                for size in self._choices.sizes
            )
            refusals = []
            for cell in cells:
                if not isinstance(cell, str):
                    break
                refusals.append(cell)
            else:
                (key,) = value
                raise ConfigError(f"--vary {key}: {refusals[0]}")

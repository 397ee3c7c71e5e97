"""A plan for a grid's setting: its cells, traced as the search asks for them, on a device. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import yaml

from slr_bench.errors import ConfigError
from slr_bench.grid.cells import Cell, flatten, own_cell
from slr_bench.grid.config import GridConfig
from slr_bench.predict.choices import Choices, at_size, choices_of
from slr_bench.predict.cost import calibrated
from slr_bench.predict.device import Device
from slr_bench.predict.foresight import Foresight
from slr_bench.predict.peak import Prediction, fits_in, predicted
from slr_bench.predict.plan import DoesNotFitError, Evaluated, Plan, Point, Probed, fastest, smallest, verified

_PROBES: Final = 3
"""Settings run for real at a time."""
_UNLIMITED: Final = 1 << 62

Progressed = Callable[[str], None]


class Budget(NamedTuple):
    """What a plan has to keep to."""

    total_bytes: int | None
    """Of the card, context included; None: no limit."""
    headroom: float
    """Share of it left free."""
    slower: float | None
    """Look for the least memory at so much more time than the fastest (0.1: 10 %) instead."""

    @property
    def bytes(self) -> int:
        """What may be used."""
        return round((self.total_bytes or 0) * (1 - self.headroom))


@dataclass(frozen=True)
class Planned:
    """A plan with the settings behind its points."""

    plan: Plan
    budget: Budget
    device: Device
    cells: Mapping[Point, Cell]
    differences: Mapping[Point, Mapping[str, Any]]
    """What each point changes in the setting that was given."""
    left_alone: Sequence[str]
    time_source: str
    probed: Mapping[Point, Probed]
    """What was run for real."""

    def as_json(self) -> dict[str, Any]:
        """DESIGN's object of ``plan``."""
        chosen = self._entry(self.plan.chosen)
        rejected = [
            {"setting": dict(self.differences[one.point]), "reason": one.reason, "bytes": one.bytes}
            for one in self.plan.rejected
        ]
        return {
            "budget_bytes": self.budget.total_bytes,
            "headroom_bytes": None if self.budget.total_bytes is None else self.budget.total_bytes - self.budget.bytes,
            "device": self.device.name,
            "time_source": self.time_source,
            "chosen": chosen | {"setting": self.cells[self.plan.chosen].public_setting},
            "rejected": rejected,
            "pareto": [self._entry(point) for point in self.plan.pareto],
            "left_alone": list(self.left_alone),
            "verified": [
                {"setting": dict(self.differences[point]), "peak_bytes": one.peak_bytes, "step_time_s": one.seconds}
                for point, one in self.probed.items()
            ],
        }

    def _entry(self, point: Point) -> dict[str, Any]:
        found = self.plan.evaluated[point]
        prediction = None if found.prediction is None else found.prediction.as_json()
        if prediction is not None:
            del prediction["by_module"]
        return {
            "changes": dict(self.differences[point]),
            "predicted": prediction,
            "need_bytes": found.need_bytes,
            "step_time_s": found.seconds,
        }


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
    ) -> None:
        self._grid = grid.model_copy(update={"repeats": 1, "sides": 1})
        self._overrides, self._arm, self._workload = overrides, arm, workload
        self._device, self._rates = device, device.rates
        self._own = own_cell(self._grid, dict(overrides), arm, workload)
        if self._own.spec.kind != "step":
            raise ConfigError(f"workload {self._own.spec.name} is a whole training; plan for a step with --workload")
        self._choices: Choices = choices_of(self._own, keep, allow, _varied(vary))
        self._cells: dict[Point, Cell] = {}

    def plan(
        self, budget: Budget, progressed: Progressed = lambda text: None, measure: Measure | None = None
    ) -> Planned:
        """The plan. With ``measure`` the first choice and its neighbours are run, the rates calibrated, the choice made
        anew, and run: what was predicted to fit and does not is passed over, three times at most.

        Raises:
            DoesNotFitError: nothing fits.
        """
        with Foresight([self._own], cuda_rules=True) as foresight:
            plan = self._search(budget, foresight, progressed)
            if measure is None:
                return self._planned(plan, budget, {})
            probed = self._calibrate(plan, budget, progressed, measure)
            plan = self._search(budget, foresight, progressed)

        def probe(point: Point) -> Probed:
            return probed.get(point) or measure(self._grid, [self._cells[point]], progressed)[0]

        point, seen = verified(plan, probe, self._fits(budget), self._room(budget), _PROBES)
        if point is None:
            raise DoesNotFitError(f"the {len(seen)} fastest that should fit do not on this GPU; give more --headroom")
        return self._planned(replace(plan, chosen=point), budget, probed | seen)

    def _search(self, budget: Budget, foresight: Foresight, progressed: Progressed) -> Plan:
        done = 0

        def evaluate(points: Sequence[Point]) -> list[Evaluated | str]:
            nonlocal done
            found = [self._cell(point) for point in points]
            traced = iter(foresight.foresee([cell for cell in found if isinstance(cell, Cell)]))
            results = [cell if isinstance(cell, str) else self._evaluated(next(traced)) for cell in found]
            done += len(points)
            progressed(f"{done} settings traced")
            return results

        options, sizes = len(self._choices.options), self._choices.sizes
        if budget.slower is not None:
            return smallest(options, sizes, evaluate, budget.slower)
        return fastest(options, sizes, evaluate, self._fits(budget), budget.bytes)

    def _calibrate(self, plan: Plan, budget: Budget, progressed: Progressed, measure: Measure) -> dict[Point, Probed]:
        """Measure the choice and the points that fit and differ from it most in what a step consists of."""
        fits = self._fits(budget)
        others = [point for point, found in plan.evaluated.items() if fits(found) and point != plan.chosen]
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

    def _room(self, budget: Budget) -> int:
        return budget.bytes if budget.total_bytes is not None else _UNLIMITED

    def _fits(self, budget: Budget) -> Callable[[Evaluated], bool]:
        room = self._room(budget)
        known: dict[int, bool] = {}

        def fits(found: Evaluated) -> bool:
            if id(found) not in known:
                assert found.prediction is not None
                known[id(found)] = fits_in(found.prediction.foreseen, self._device, room) is True
            return known[id(found)]

        return fits

    def _cell(self, point: Point) -> Cell | str:
        """The cell of a point; a text where the combination is impossible."""
        overrides = {**self._overrides, **self._changes(point)}
        try:
            cell = own_cell(self._grid, overrides, self._arm, self._workload)
        except ConfigError as error:
            return f"impossible: {error}"
        self._cells[point] = cell
        return cell

    def _changes(self, point: Point) -> dict[str, Any]:
        return {**self._choices.options[point.option], **at_size(self._own, point.size)}

    def _difference(self, point: Point) -> dict[str, Any]:
        own = flatten(self._own.settings.model_dump(mode="json"))
        return {key: value for key, value in self._changes(point).items() if own.get(key) != value}

    def _evaluated(self, traced: Mapping[str, Any] | str) -> Evaluated | str:
        if isinstance(traced, str):
            return traced
        prediction: Prediction = predicted(traced, replace(self._device, capacity_bytes=None))
        return Evaluated(prediction.nvml.high, self._rates.seconds(traced), prediction)


def _varied(texts: Sequence[str]) -> dict[str, list[Any]]:
    """``KEY=A,B`` -> its values, read as YAML.

    Raises:
        ConfigError: no such form.
    """
    found: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not key or not values:
            raise ConfigError(f"--vary: {text!r} is not KEY=A,B; give one like training.batch_size=2,4")
        try:
            found[key] = list(yaml.safe_load(f"[{values}]"))
        except yaml.YAMLError as error:
            raise ConfigError(f"--vary: the values of {text!r} are no YAML; give one like {key}=2,4") from error
    return found

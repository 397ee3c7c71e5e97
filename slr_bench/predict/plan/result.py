"""A budget, and the plan that keeps to it, with the settings behind its points. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from slr_bench.errors import ConfigError, SlrBenchError
from slr_bench.execute.job import JsonObject
from slr_bench.grid.cells import Cell
from slr_bench.predict.allocator.rules import UNLIMITED
from slr_bench.predict.device import Device
from slr_bench.predict.peak import Prediction
from slr_bench.predict.plan.choices import Overrides
from slr_bench.predict.rates import Rates


class DoesNotFitError(SlrBenchError):
    """No setting that the plan may choose fits."""

    exit_code = 6


class Budget(NamedTuple):
    """The limit that a plan has to keep to."""

    total_bytes: int | None
    """Memory of the card, context included; None for no limit."""
    headroom: float
    """Fraction of the budget that stays free."""
    slower: float | None
    """Look for the least memory instead, at this much more time than the fastest setting (0.1 is 10 %)."""

    @property
    def bytes(self) -> int | None:
        """Memory that a step may use; None for no limit."""
        return None if self.total_bytes is None else round(self.total_bytes * (1 - self.headroom))

    @property
    def room_bytes(self) -> int:
        """Like ``bytes``, but a number larger than any step if there is no limit."""
        return UNLIMITED if self.bytes is None else self.bytes

    @classmethod
    def from_options(
        cls, card: Device, gpu_memory: str | None, headroom_percent: float, slower_percent: float | None
    ) -> Self:
        """Make the budget of a command's options. ``gpu_memory`` is part of the card already.

        Raises:
            ConfigError: there is no budget, or two options exclude each other.
        """
        if card.capacity_bytes is None and slower_percent is None:
            raise ConfigError(
                "a plan needs a budget: --gpu-memory 6GiB, --device rtx4060, or --slower 10 for the least"
            )
        if slower_percent is not None and gpu_memory is not None:
            raise ConfigError(
                "--slower looks for the least memory and ignores the budget; leave out --gpu-memory, or --slower"
            )
        return cls(
            card.capacity_bytes, headroom_percent / 100, None if slower_percent is None else slower_percent / 100
        )


class Point(NamedTuple):
    """An option (a choice for every knob) at a micro-batch size."""

    option: int
    size: int


@dataclass(frozen=True)
class Evaluated:
    """Memory and time of one point."""

    need_bytes: int
    """The most that NVML may show; within the budget if the step runs there."""
    seconds: float
    """Time of an optimizer step, without the time that giving cached memory back takes."""
    prediction: Prediction | None = None

    @property
    def is_tight(self) -> bool:
        """The point stays within the budget only by giving cached memory back."""
        return self.prediction is not None and self.prediction.is_tight


class Rejected(NamedTuple):
    """A point that was not chosen, and why."""

    point: Point
    reason: str
    bytes: int
    """Bytes over the budget; 0 for another reason."""


class Measured(NamedTuple):
    """Memory and time of a point that ran on the GPU."""

    peak_bytes: int | None
    """Peak as NVML reported it; None if it ran out of memory."""
    seconds: float | None


@dataclass(frozen=True)
class Choice:
    """The result of a search: the chosen point, and all that were evaluated."""

    chosen: Point
    evaluated: Mapping[Point, Evaluated]
    rejected: Sequence[Rejected]

    @property
    def pareto(self) -> list[Point]:
        """The points that no other point beats in both memory and time, fastest first."""
        front: list[Point] = []
        by_time = sorted(self.evaluated.items(), key=lambda item: (item[1].seconds, item[1].need_bytes))
        for point, evaluated in by_time:
            if not front or evaluated.need_bytes < self.evaluated[front[-1]].need_bytes:
                front.append(point)
        return front


@dataclass(frozen=True)
class Plan:
    """A choice with the settings behind its points."""

    choice: Choice
    budget: Budget
    device: Device
    cells: Mapping[Point, Cell]
    differences: Mapping[Point, Overrides]
    """Changes of each point to the given setting."""
    left_alone: Sequence[str]
    """Why some knobs stay as they are."""
    rates: Rates
    """Rates that the times are estimated with."""
    measured: Mapping[Point, Measured]
    """The points that ran on the GPU."""

    @property
    def best(self) -> Evaluated:
        """Memory and time of the chosen point."""
        return self.choice.evaluated[self.choice.chosen]

    @property
    def rejected(self) -> list[Rejected]:
        """Rejected points, nearest to the choice first: by the number of differing keys, then by micro-batch size."""
        chosen = self.choice.chosen
        own = self.differences[chosen]

        def distance(rejected: Rejected) -> tuple[float, ...]:
            point, other = rejected.point, self.differences[rejected.point]
            keys = {key for key in {*own, *other} if own.get(key) != other.get(key)}
            return point.option != chosen.option, len(keys), abs(math.log(point.size / chosen.size)), -point.size

        return sorted(self.choice.rejected, key=distance)

    def to_dict(self) -> JsonObject:
        """The JSON object of ``slr-bench plan``."""
        budget, chosen = self.budget, self.choice.chosen
        rejected = [
            {"setting": dict(self.differences[one.point]), "reason": one.reason, "bytes": one.bytes}
            | self._figures(one.point)
            for one in self.rejected
        ]
        return {
            "budget_bytes": budget.total_bytes,
            "headroom_bytes": None if budget.bytes is None else (budget.total_bytes or 0) - budget.bytes,
            "device": self.device.name,
            "time_source": self.rates.source,
            "chosen": self._entry(chosen) | {"setting": self.cells[chosen].public_setting},
            "rejected": rejected,
            "pareto": [self._entry(point) for point in self.choice.pareto],
            "left_alone": list(self.left_alone),
            "verified": [
                {"setting": dict(self.differences[point]), "peak_bytes": one.peak_bytes, "step_time_s": one.seconds}
                for point, one in self.measured.items()
            ],
        }

    def _entry(self, point: Point) -> JsonObject:
        prediction = self.choice.evaluated[point].prediction
        predicted = None if prediction is None else prediction.to_dict()
        if predicted is not None:
            del predicted["by_module"]
        return {"changes": dict(self.differences[point]), "predicted": predicted, **self._figures(point)}

    def _figures(self, point: Point) -> JsonObject:
        """Memory and time; null for a point that is impossible or could not be traced."""
        evaluated = self.choice.evaluated.get(point)
        return {
            "need_bytes": None if evaluated is None else evaluated.need_bytes,
            "step_time_s": None if evaluated is None else evaluated.seconds,
        }

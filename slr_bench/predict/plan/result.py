"""A budget, and a plan for it with the settings behind its points. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from slr_bench.grid.cells import Cell
from slr_bench.predict.allocator.rules import UNLIMITED
from slr_bench.predict.device import Device
from slr_bench.predict.plan.search import Plan, Point, Probed, Rejected


class Budget(NamedTuple):
    """What a plan has to keep to."""

    total_bytes: int | None
    """Of the card, context included; None: no limit."""
    headroom: float
    """Share of it left free."""
    slower: float | None
    """Look for the least memory at so much more time than the fastest (0.1: 10 %) instead."""

    @property
    def bytes(self) -> int | None:
        """What may be used; None: no limit."""
        return None if self.total_bytes is None else round(self.total_bytes * (1 - self.headroom))

    @property
    def room_bytes(self) -> int:
        """As ``bytes``; more than any step needs where there is no limit."""
        return UNLIMITED if self.bytes is None else self.bytes


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

    @property
    def rejected(self) -> list[Rejected]:
        """Those nearest the choice first: by how many keys they differ in, then by how far their micro-batch is off."""
        own = self.differences[self.plan.chosen]
        size = self.plan.chosen.size

        def distance(one: Rejected) -> tuple[float, ...]:
            theirs = self.differences[one.point]
            keys = {key for key in {*own, *theirs} if own.get(key) != theirs.get(key)}
            is_option = one.point.option != self.plan.chosen.option
            return is_option, len(keys), abs(math.log(one.point.size / size)), -one.point.size

        return sorted(self.plan.rejected, key=distance)

    def as_json(self) -> dict[str, Any]:
        """DESIGN's object of ``plan``."""
        chosen = self._entry(self.plan.chosen)
        rejected = [
            {"setting": dict(self.differences[one.point]), "reason": one.reason, "bytes": one.bytes}
            | self._figures(one.point)
            for one in self.rejected
        ]
        return {
            "budget_bytes": self.budget.total_bytes,
            "headroom_bytes": None if self.budget.bytes is None else (self.budget.total_bytes or 0) - self.budget.bytes,
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
            **self._figures(point),
        }

    def _figures(self, point: Point) -> dict[str, Any]:
        """Null where the point could not be had."""
        found = self.plan.evaluated.get(point)
        return {
            "need_bytes": None if found is None else found.need_bytes,
            "step_time_s": None if found is None else found.seconds,
        }

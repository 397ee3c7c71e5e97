"""From memory readings to actions: one at a time, least harmful first, each with time to take effect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

SETTLE_READINGS = 5
"""Readings after an action that call for no other: caches empty and processes end only after a while."""

Action = Callable[[], str | None]
"""Does something about memory and says what; None, and nothing done, where nothing is left to do."""


class MemoryPressure:
    """Decides by the levels of :class:`MemoryTracker`'s readings.

    A GPU's memory is the micro-batch's, so at ``critical`` the micro-batch is halved. RAM is the loader's, and without
    a GPU the micro-batch's too: from ``warning`` on the loader sheds; at ``critical`` the micro-batch is halved first
    where it lies in RAM. What was shed stays shed: taking it back would fill the memory again.
    """

    def __init__(self, shed: Sequence[Action], halve: Action, device_type: str, settle: int = SETTLE_READINGS) -> None:
        self._shed, self._halve, self._device_type = tuple(shed), halve, device_type
        self._settle, self._resting = settle, 0

    def react(self, stats: dict[str, Any]) -> str | None:
        """What was done about a reading; None if nothing was to be, or could be, or an action is still settling."""
        if self._resting:
            self._resting -= 1
            return None
        for act in self._actions(stats):
            done = act()
            if done:
                self._resting = self._settle
                return done
        return None

    def _actions(self, stats: dict[str, Any]) -> list[Action]:
        in_ram = self._device_type == "cpu" and stats["ram_level"] == "critical"
        actions = [self._halve] if in_ram or stats["gpu_level"] == "critical" else []
        return actions + (list(self._shed) if stats["ram_level"] != "ok" else [])

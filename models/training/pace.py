"""Predicts how long a training takes on this machine, and finds a smaller setting where that is half a day."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Final

from models.config import Settings
from slr_bench.errors import ConfigError
from slr_bench.files import flatten, nest
from slr_bench.grid.yaml_files import validate
from slr_bench.units import format_count

HALF_A_DAY_S: Final = 12 * 3600.0
CLEAR_S: Final = 5.0
"""A first step that takes so long is announced as it is. A shorter one also has what only the first step does."""
_RECENT: Final = 20
"""Steps whose median predicts the next ones."""
_VALIDATION: Final = 1 / 3
"""Time of a clip in validation, relative to training: forward alone."""
LINE_PERIOD_S: Final = 60.0
MOST_LINES: Final = 50
"""Lines of progress per training where there is no terminal."""


@dataclass(frozen=True)
class TrainingSize:
    """The work of a training."""

    epochs: int
    steps_per_epoch: int
    clips: int
    """Clips per epoch."""
    val_clips: int

    @property
    def steps(self) -> int:
        """Optimizer steps of all epochs."""
        return self.epochs * self.steps_per_epoch

    @property
    def total_over_steps(self) -> float:
        """Time of a training with validation, relative to its steps alone."""
        return 1 + _VALIDATION * self.val_clips / self.clips


class Pace:
    """Predicts the time of a training from its last steps, and decides when there is something to print."""

    def __init__(self, size: TrainingSize, steps_done: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.size, self.steps_done = size, steps_done
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._steps_seen = 0
        self._announced = False
        self._clock, self._last_line_s = clock, clock()

    def add(self, step_s: float) -> None:
        """Count a step that took ``step_s``."""
        self.steps_done += 1
        self._steps_seen += 1
        if self._steps_seen == 2 and self._recent[0] > 2 * step_s:
            self._recent.clear()  # the first one also imported and allocated
        self._recent.append(step_s)

    @property
    def total_s(self) -> float:
        """Predicted time of all epochs."""
        return self._in_all_s(self.size.steps)

    @property
    def remaining_s(self) -> float | None:
        """Predicted time of what is left; None before the first step."""
        return self._in_all_s(max(0, self.size.steps - self.steps_done)) if self._recent else None

    def _in_all_s(self, steps: int) -> float:
        return steps * median(self._recent) * self.size.total_over_steps

    def announcement(self) -> str | None:
        """Return once how long a step takes here, and what that makes in all; None if it is too early or done."""
        if self._announced or not self._recent:
            return None
        is_clear = self._recent[0] >= CLEAR_S or self._steps_seen > 1 or self.steps_done == self.size.steps
        if not is_clear:
            return None
        self._announced = True
        return (
            f"a step takes {duration_text(median(self._recent))} here: about {duration_text(self.total_s)} for "
            f"{format_count(self.size.epochs, 'epoch')} of {format_count(self.size.steps_per_epoch, 'step')}"
        )

    def is_line_due(self) -> bool:
        """Return whether it is time for another line of progress: at most one per minute, and 50 in all."""
        period_s = max(LINE_PERIOD_S, self.total_s / MOST_LINES if self._recent else 0.0)
        if self._clock() < self._last_line_s + period_s:
            return False
        self._last_line_s = self._clock()
        return True


def duration_text(seconds: float) -> str:
    """Return ``4 ms``, ``0.8 s``, ``25 min``, ``3.5 h`` or ``4.2 days``."""
    if 0 < seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if not seconds:
        return "0 s"
    for size, unit, limit in ((1.0, "s", 120.0), (60.0, "min", 120.0), (3600.0, "h", 48.0)):
        if seconds < size * limit:
            return f"{seconds / size:.{1 if seconds / size < 10 else 0}f} {unit}"
    return f"{seconds / 86400:.1f} days"


SMALL: Final = {
    "model.network": "efficient",
    "model.base_channels": 16,
    "model.region_focus": "none",
    "model.focus_size": None,
    "data.frame_size": 64,
    "training.precision": "fp32",
    "training.recompute": "none",
}
"""A setting that a CPU trains in minutes: 25 to 40 ms of processor time per clip of 16 frames."""


def small_setting(settings: Settings) -> list[str] | None:
    """Return the ``KEY=VALUE`` that make a setting small enough for a CPU; None if it is small, or cannot be so.

    Weights of another network cannot be used in a small one.
    """
    now = flatten(settings.model_dump(mode="json"))
    changes = {key: value for key, value in SMALL.items() if now[key] != value}
    if not changes or settings.model.weights is not None:
        return None
    try:
        validate(Settings, nest(changes, base=settings.model_dump()), "the small setting")
    except ConfigError:
        return None
    return [f"{key}={'null' if value is None else value}" for key, value in changes.items()]

"""From which part of a memory on it is called tight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slr_bench.errors import ConfigError

Level = Literal["ok", "warning", "critical"]

LEVELS: tuple[Level, ...] = ("ok", "warning", "critical")


@dataclass(frozen=True)
class Thresholds:
    """Fractions of the memory that may be used.

    Raises:
        ConfigError: not 0 < warning <= critical <= 1.
    """

    warning: float = 0.9
    critical: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.warning <= self.critical <= 1:
            raise ConfigError(
                f"thresholds warning {self.warning:g}, critical {self.critical:g}: they are fractions of the memory, "
                "0 < warning <= critical <= 1, like 0.9 and 0.95"
            )

    def level(self, fraction: float) -> Level:
        """Where a fraction lies."""
        if fraction >= self.critical:
            return "critical"
        return "warning" if fraction >= self.warning else "ok"

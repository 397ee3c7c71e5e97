"""A thread that reads a quantity at a fixed rate and keeps the series."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

DEFAULT_PERIOD_S = 0.05  # below 50 ms some NVML drivers misbehave


class Sampler:
    """Read every ``period_s`` while open, and once at each end.

    Peaks are lower bounds, as those between two samples are missed. ``read`` returns one value per series, or None if
    it cannot read it; it runs in the sampler's thread. ``times_s`` are readings of ``clock``.
    """

    def __init__(
        self,
        read: Callable[[], tuple[int | None, ...]],
        period_s: float = DEFAULT_PERIOD_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._read = read
        self._period_s = period_s
        self._clock = clock
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.times_s: list[float] = []
        self.rows: list[tuple[int | None, ...]] = []
        self.cpu_s = 0.0
        """CPU time of the sampler's thread, a lower bound of its cost."""

    def __enter__(self) -> Self:
        self.sample()
        self._thread = threading.Thread(target=self._loop, name="slr-bench-sampler", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.sample()

    def sample(self) -> None:
        """Read once."""
        self.times_s.append(self._clock())
        self.rows.append(self._read())

    def peak(self, column: int) -> int | None:
        """Return the largest value of a series, or None if it was never readable."""
        return max((value for row in self.rows if (value := row[column]) is not None), default=None)

    def _loop(self) -> None:
        while not self._stop.wait(self._period_s):
            self.sample()
        self.cpu_s = time.thread_time()

"""Time spent in the named parts of a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple


class Span(NamedTuple):
    """One interval in a phase, in seconds since the clock was created."""

    name: str
    start_s: float
    end_s: float


class PhaseClock:
    """Record a span for each ``with clock("forward"): ...``, and pass its name on to a listener (the tracer).

    On a GPU the end of a phase means little unless ``synchronize`` waits for the device. The clock is therefore off
    while steps are timed, and on in a separate step.
    """

    def __init__(self, synchronize: Callable[[], None] | None = None) -> None:
        self._synchronize = synchronize or (lambda: None)
        self._start_s = time.perf_counter()
        self.enabled = True
        self.listener: Callable[[str], AbstractContextManager[None]] | None = None
        self.spans: list[Span] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        with self.listener(name) if self.listener else nullcontext():
            if not self.enabled:
                yield
                return
            self._synchronize()
            start_s = self.now_s()
            try:
                yield
            finally:
                self._synchronize()
                self.spans.append(Span(name, start_s, self.now_s()))

    @contextmanager
    def listening(self, listener: Callable[[str], AbstractContextManager[None]]) -> Iterator[None]:
        """Pass every phase to ``listener`` while open, instead of to the previous one."""
        before, self.listener = self.listener, listener
        try:
            yield
        finally:
            self.listener = before

    def now_s(self) -> float:
        """Return the seconds since the clock was created."""
        return time.perf_counter() - self._start_s

    def total_s(self, name: str) -> float:
        """Return the total time in a phase."""
        return sum(span.end_s - span.start_s for span in self.spans if span.name == name)

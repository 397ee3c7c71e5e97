"""SIGINT and SIGTERM while training: finish the step, save, then end with the signal's exit code."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from slr_bench.errors import SlrBenchError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(SlrBenchError):
    """A signal ended the training; ``exit_code`` is 128 + its number."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class Interruption:
    """Notes the first signal while open; a second one acts as it would have without.

    Loader processes forked inside inherit the handler, so Ctrl-C in a terminal, which reaches the whole process group,
    does not end them before the step has its batch. In a thread other than the main one it does nothing.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

"""Ctrl-C and SIGTERM that cannot be lost.

Python raises KeyboardInterrupt wherever the program happens to be. Inside a callback of another library, such as a
serializer that pydantic calls, the exception can be swallowed: the command then ran on. So the signal also leaves a
note here. Work that must be whole is done in :func:`deferred`, and loops call :func:`obey_lost_interrupt`.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class _Signals:
    """What has arrived since :func:`handle_signals`. Python runs signal handlers in the main thread alone."""

    def __init__(self) -> None:
        self.count = 0
        self.depth = 0
        """How many :func:`deferred` blocks are open."""

    def receive(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if not self.depth:
            raise KeyboardInterrupt


_signals = _Signals()


def handle_signals() -> None:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt, as commands expect; forget earlier signals."""
    global _signals
    _signals = _Signals()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _signals.receive)


@contextmanager
def deferred() -> Iterator[None]:
    """Finish the block first: a signal that arrives within it raises KeyboardInterrupt at its end."""
    signals, before = _signals, _signals.count
    signals.depth += 1
    try:
        yield
    finally:
        signals.depth -= 1
    if signals.count > before and not signals.depth:
        raise KeyboardInterrupt


def obey_lost_interrupt() -> None:
    """Raise KeyboardInterrupt if a signal has arrived. Whoever still runs has not obeyed it.

    Only code that an interrupt would have ended may call this, never code that cleans up after one.
    """
    if _signals.count:
        raise KeyboardInterrupt

"""The loop of ``slr-bench watch``: look, show, wait, until the process ends, enough was seen, or Ctrl-C."""

from __future__ import annotations

import json
import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal, Protocol

from rich.console import Console
from rich.live import Live

from slr_bench.errors import ConfigError
from slr_bench.probes.live import LiveReader, LiveReading
from slr_bench.probes.thresholds import Thresholds
from slr_bench.report.views.watch_layout import as_json, line, screen, summary, summary_json

Wait = Callable[[float], bool]
"""Waits so many seconds at most; whether the process has ended."""
Ending = Literal["ended", "enough seen", "watch stopped"]
_HISTORY = 240


class View(Protocol):
    """Where readings go."""

    def show(self, reading: LiveReading) -> None: ...

    def close(self) -> None: ...

    def finish(self, ending: Ending, duration_s: float) -> None: ...


@contextmanager
def process_end(pid: int | None) -> Iterator[Wait]:
    """How to wait for a process that is not one's own, without polling and safe from a new process with its number.

    Raises:
        ConfigError: there is no such process.
    """
    if pid is None:
        yield _sleep
        return
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        raise ConfigError(f"--pid {pid}: {os.strerror(error.errno or 0).lower()}; ps -e lists the processes") from error
    try:
        yield lambda seconds: bool(select.select([descriptor], [], [], max(0.0, seconds))[0])
    finally:
        os.close(descriptor)


def _sleep(seconds: float) -> bool:
    time.sleep(max(0.0, seconds))
    return False


def watch(
    reader: LiveReader,
    view: View,
    wait: Wait,
    period_s: float,
    count: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Ending:
    """Show a reading every ``period_s`` and at last the summary. Ctrl-C is a watch's normal end."""
    start_s = clock()
    ending: Ending = "ended"
    try:
        taken = 0
        while not wait(start_s + taken * period_s - clock()):
            reading = reader.read()
            if reading is None:
                break
            view.show(reading)
            taken += 1
            if taken == count:
                ending = "enough seen"
                break
    except KeyboardInterrupt:
        ending = "watch stopped"
    finally:
        view.close()
    view.finish(ending, clock() - start_s)
    return ending


class LineView:
    """A line a reading: for pipes, logs and terminals that cannot move the cursor."""

    def __init__(
        self, reader: LiveReader, what: str, console: Console, thresholds: Thresholds, no_gpu: str | None = None
    ) -> None:
        self._reader, self._what, self._console, self._thresholds = reader, what, console, thresholds
        self._no_gpu = no_gpu
        """Why no GPU can be read; None where one can."""

    def show(self, reading: LiveReading) -> None:
        """One line."""
        if self._no_gpu and self._reader.peaks.readings == 1:
            self._print(f"no GPU readings: {self._no_gpu}")
        self._print(line(reading, self._reader.peaks, self._thresholds, f"{datetime.now():%H:%M:%S}"))

    def close(self) -> None:
        """Give back what is held: here nothing."""

    def finish(self, ending: Ending, duration_s: float) -> None:
        """The summary."""
        self._print(summary(self._reader.peaks, self._what, ending, duration_s))

    def _print(self, text: str) -> None:
        # Not through the console: it would make an exit code 1 of a reader that has seen enough.
        self._console.file.write(f"{text}\n")
        self._console.file.flush()


class JsonView(LineView):
    """A JSON object a reading, and one ``{"summary": ...}`` at the end."""

    def show(self, reading: LiveReading) -> None:
        """One object."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._print(json.dumps(as_json(reading, self._thresholds, now, self._no_gpu)))
        self._no_gpu = None  # said once

    def finish(self, ending: Ending, duration_s: float) -> None:
        """The summary's object."""
        self._print(json.dumps(summary_json(self._reader.peaks, ending, duration_s)))


class ScreenView(LineView):
    """A region of the terminal that is drawn anew at each reading, and nowhere between: little goes over ssh."""

    def __init__(
        self, reader: LiveReader, what: str, console: Console, thresholds: Thresholds, no_gpu: str | None = None
    ) -> None:
        super().__init__(reader, what, console, thresholds, no_gpu)
        self._history: deque[float] = deque(maxlen=_HISTORY)
        self._live = Live(console=console, auto_refresh=False)

    def show(self, reading: LiveReading) -> None:
        """Draw."""
        self._history.append(reading.ram_bytes)
        self._live.start()
        self._live.update(
            screen(reading, self._reader.peaks, self._history, self._thresholds, self._no_gpu), refresh=True
        )

    def close(self) -> None:
        """Leave the last drawing, and the cursor below it."""
        self._live.stop()

"""Show the memory of a running process or machine for ``slr-bench watch``: as a screen, as lines, or as JSON."""

from __future__ import annotations

import json
import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from slr_bench.errors import ConfigError
from slr_bench.probes.host import Level, Thresholds
from slr_bench.probes.live import GpuNow, LiveReader, LiveReading, Peaks
from slr_bench.units import format_bytes, format_seconds, plain, sparkline

Wait = Callable[[float], bool]
"""Waits at most so many seconds; returns whether the process has ended."""
Ending = Literal["ended", "enough seen", "watch stopped"]
_HISTORY = 240


class View(Protocol):
    """Displays readings."""

    def show(self, reading: LiveReading) -> None: ...

    def close(self) -> None: ...

    def finish(self, ending: Ending, duration_s: float) -> None: ...


@contextmanager
def process_end(pid: int | None) -> Iterator[Wait]:
    """Yield a function that waits for any process to end, without polling and without confusing reused process ids.

    Raises:
        ConfigError: no such process.
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
    """Show a reading every ``period_s``, then the summary. Ctrl-C is a normal way to end."""
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
    """Prints one line per reading, for pipes, logs and terminals that cannot move the cursor."""

    def __init__(
        self, reader: LiveReader, name: str, console: Console, thresholds: Thresholds, no_gpu: str | None = None
    ) -> None:
        self._reader, self._name, self._console, self._thresholds = reader, name, console, thresholds
        self._no_gpu = no_gpu
        """Why no GPU can be read; None if one can."""

    def show(self, reading: LiveReading) -> None:
        """Print a line."""
        if self._no_gpu and self._reader.peaks.readings == 1:
            self._print(f"no GPU readings: {self._no_gpu}")
        self._print(line(reading, self._reader.peaks, self._thresholds, f"{datetime.now():%H:%M:%S}"))

    def close(self) -> None:
        """Release what is held; a line view holds nothing."""

    def finish(self, ending: Ending, duration_s: float) -> None:
        """Print the summary."""
        self._print(summary(self._reader.peaks, self._name, ending, duration_s))

    def _print(self, text: str) -> None:
        # Not through the console, which exits with code 1 if the reader of a pipe stops reading.
        self._console.file.write(f"{text}\n")
        self._console.file.flush()


class JsonView(LineView):
    """Prints one JSON object per reading, and ``{"summary": ...}`` at the end."""

    def show(self, reading: LiveReading) -> None:
        """Print an object."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._print(json.dumps(reading_json(reading, self._thresholds, now, self._no_gpu)))
        self._no_gpu = None  # reported once

    def finish(self, ending: Ending, duration_s: float) -> None:
        """Print the summary as an object."""
        self._print(json.dumps(summary_json(self._reader.peaks, ending, duration_s)))


class ScreenView(LineView):
    """Redraws a region of the terminal at each reading only, so that little data is sent over ssh."""

    def __init__(
        self, reader: LiveReader, name: str, console: Console, thresholds: Thresholds, no_gpu: str | None = None
    ) -> None:
        super().__init__(reader, name, console, thresholds, no_gpu)
        self._history: deque[float] = deque(maxlen=_HISTORY)
        self._live = Live(console=console, auto_refresh=False)

    def show(self, reading: LiveReading) -> None:
        """Draw the reading."""
        self._history.append(reading.ram_bytes)
        self._live.start()
        self._live.update(
            screen(reading, self._reader.peaks, self._history, self._thresholds, self._no_gpu), refresh=True
        )

    def close(self) -> None:
        """Keep the last drawing and put the cursor below it."""
        self._live.stop()


_STYLES: dict[Level, str] = {"ok": "green", "warning": "yellow", "critical": "bold red"}
_MOST_PROCESSES, _SPARK_WIDTH = 12, 24


def screen(
    reading: LiveReading, peaks: Peaks, history: Sequence[float], thresholds: Thresholds, no_gpu: str | None
) -> RenderableType:
    """Return a screen of at most 80 columns: limit, sparkline, one row per GPU, one row per process."""
    parts: list[RenderableType] = [_memory_table(reading, peaks, history, thresholds)]
    if reading.gpus:
        parts.append(_gpu_table(reading.gpus, thresholds))
    elif no_gpu:
        parts.append(Text("no GPU readings; slr-bench doctor reports why", style="dim"))
    if reading.processes:
        parts.append(_process_table(reading))
    return Group(*parts)


def line(reading: LiveReading, peaks: Peaks, thresholds: Thresholds, clock: str) -> str:
    """Return a reading as one line."""
    parts = [f"{clock}  RAM {format_bytes(reading.ram_bytes)}"] if reading.processes else [clock]
    if len(reading.processes) > 1:
        parts.append(f"shared pages once {format_bytes(reading.pss_bytes)}{_age(reading)}")
    share = f"{reading.memory.source} {_share(reading)}{_mark(reading.used_fraction, thresholds)}"
    peak = f"peak {format_bytes(peaks.peak_bytes)}"
    parts += [peak, share] if reading.processes else [share, peak]
    for gpu in reading.gpus:
        words = [f"GPU {gpu.number}"]
        if reading.processes:
            words.append(f"process {format_bytes(gpu.reading.process_bytes)}")
        words += [_device_use(gpu), _percent(gpu.state.utilization_ratio), _degrees(gpu.state.temperature_c)]
        words += gpu.state.throttle_reasons or ()
        parts.append(" ".join(words) + _mark(_device_fraction(gpu), thresholds))
    return "  ".join(parts)


def reading_json(
    reading: LiveReading, thresholds: Thresholds, time: str, no_gpu: str | None = None
) -> dict[str, object]:
    """Return a reading as JSON values. Unknown values are null, and ``reasons`` has the causes.

    ``no_gpu`` is the reason why there is no GPU; it is left out if there is one, or if it was reported before.
    """
    found: dict[str, object] = {
        "time": time,
        "ram_bytes": reading.ram_bytes,
        "ram_kind": reading.ram_kind,
        "rss_bytes": reading.rss_bytes,
        "pss_bytes": reading.pss_bytes,
        "pss_age_s": None if reading.pss_age_s is None else round(reading.pss_age_s, 3),
        **reading.memory._asdict(),
        "level": thresholds.level(reading.used_fraction),
        "processes": [
            {**process._asdict(), "pss_bytes": reading.pss_by_pid.get(process.pid)} for process in reading.processes
        ],
        "gpus": [
            {"number": gpu.number, "name": gpu.name, **gpu.reading._asdict(), **gpu.state._asdict()}
            | {"reasons": gpu.reasons}
            for gpu in reading.gpus
        ],
    }
    return found | {"no_gpu": no_gpu} if no_gpu else found


def summary(peaks: Peaks, name: str, ending: str, duration_s: float) -> str:
    """Return the last line: how the watch ended, and the peaks."""
    if not peaks.readings:
        return f"{name}: {ending} before it could be read"
    parts = [f"{name}: {ending} after {format_seconds(duration_s)}, {peaks.readings} readings"]
    if "used" in peaks.ram_bytes:
        parts.append(f"peak RAM in use {format_bytes(peaks.used_bytes)}")
    if peaks.most_processes:
        source = "the kernel's mark" if peaks.is_exact else f"at most {peaks.most_processes} processes, at the readings"
        parts.append(f"peak RAM {format_bytes(peaks.peak_bytes)} ({source})")
    if peaks.most_processes > 1 and "PSS" in peaks.ram_bytes:
        parts.append(f"shared pages once {format_bytes(peaks.ram_bytes['PSS'])}")
    if peaks.most_processes > 1 and peaks.high_water_bytes is not None:
        parts.append(f"high-water mark of the first process {format_bytes(peaks.high_water_bytes)}")
    parts += [f"GPU {number} {format_bytes(size)} of the process" for number, size in peaks.gpu_bytes.items()]
    parts += [f"GPU {number} {format_bytes(size)} in use" for number, size in peaks.device_bytes.items()]
    return "; ".join(parts)


def summary_json(peaks: Peaks, ending: str, duration_s: float) -> dict[str, object]:
    """Return the same as an object under ``summary``."""
    found = {
        "ending": ending,
        "duration_s": round(duration_s, 3),
        "readings": peaks.readings,
        "peak_ram_bytes": peaks.ram_bytes,
        "peak_bytes": peaks.peak_bytes if peaks.readings else None,
        "peak_is_exact": peaks.is_exact,
        "peak_used_bytes": peaks.used_bytes if peaks.readings else None,
        "high_water_bytes": peaks.high_water_bytes,
        "peak_gpu_process_bytes": peaks.gpu_bytes,
        "peak_gpu_device_bytes": peaks.device_bytes,
    }
    return {"summary": found}


def _age(reading: LiveReading) -> str:
    """Return how old PSS is; empty if it is unknown, or was read now."""
    is_old = reading.pss_bytes is not None and (reading.pss_age_s or 0.0) >= 0.05
    return f" {reading.pss_age_s:.1f} s ago" if is_old else ""


def _share(reading: LiveReading) -> str:
    memory = reading.memory
    used = f"{format_bytes(memory.used_bytes)} of {format_bytes(memory.limit_bytes)}"
    return f"{used} {_percent(reading.used_fraction)}"


def _mark(fraction: float | None, thresholds: Thresholds) -> str:
    level = "ok" if fraction is None else thresholds.level(fraction)
    return "" if level == "ok" else f" {level.upper()}"


def _percent(ratio: float | None) -> str:
    return "–" if ratio is None else f"{100 * ratio:.0f} %"


def _degrees(temperature_c: int | None) -> str:
    return "–" if temperature_c is None else f"{temperature_c} °C"


def _device_use(gpu: GpuNow) -> str:
    return f"{format_bytes(gpu.reading.device_bytes)} of {format_bytes(gpu.reading.total_bytes)}"


def _device_fraction(gpu: GpuNow) -> float | None:
    used, total = gpu.reading.device_bytes, gpu.reading.total_bytes
    return used / total if used is not None and total else None


def _coloured(text: str, fraction: float | None, thresholds: Thresholds) -> Text:
    return Text(text, style="dim" if fraction is None else _STYLES[thresholds.level(fraction)])


def _memory_table(
    reading: LiveReading, peaks: Peaks, history: Sequence[float], thresholds: Thresholds
) -> RenderableType:
    rows = Table.grid(padding=(0, 2))
    if reading.processes:
        peak = f"peak {format_bytes(peaks.peak_bytes)}"
        rows.add_row("RAM", Text(format_bytes(reading.ram_bytes), style="bold"), peak, _spark(history))
        if len(reading.processes) > 1:
            rows.add_row("shared pages once", format_bytes(reading.pss_bytes), _age(reading).strip(), "")
    fraction = reading.used_fraction
    limit = f"{reading.memory.source} limit" if reading.memory.source != "machine" else "machine"
    used = _coloured(f"{format_bytes(reading.memory.used_bytes)} ({_percent(fraction)})", fraction, thresholds)
    spark = Text("") if reading.processes else _spark(history)
    rows.add_row(limit, used, f"of {format_bytes(reading.memory.limit_bytes)}", spark)
    return rows


def _spark(history: Sequence[float]) -> Text:
    return Text(sparkline(history, _SPARK_WIDTH), style="cyan")


def _gpu_table(gpus: Sequence[GpuNow], thresholds: Thresholds) -> RenderableType:
    rows = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    for name in ("GPU", "process", "in use", "of", "busy", "heat", "slowed by"):
        rows.add_column(name, justify="left" if name in ("GPU", "slowed by") else "right", no_wrap=name != "slowed by")
    for gpu in gpus:
        reasons = gpu.state.throttle_reasons
        rows.add_row(
            plain(f"{gpu.number} {gpu.name.removeprefix('NVIDIA ')}", 16),
            format_bytes(gpu.reading.process_bytes),
            _coloured(format_bytes(gpu.reading.device_bytes), _device_fraction(gpu), thresholds),
            format_bytes(gpu.reading.total_bytes),
            _percent(gpu.state.utilization_ratio),
            _degrees(gpu.state.temperature_c),
            "–" if reasons is None else Text(", ".join(reasons) or "nothing", style="yellow" if reasons else ""),
        )
    notes = {reason: None for gpu in gpus for name, reason in gpu.reasons.items() if name.endswith("_bytes")}
    return Group(rows, *(Text(f"–: {plain(reason, 200)}", style="dim") for reason in notes))


def _process_table(reading: LiveReading) -> RenderableType:
    rows = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    for name in ("PID", "process", "RSS", f"PSS{_age(reading)}", "peak RSS"):
        rows.add_column(name, justify="left" if name == "process" else "right", no_wrap=True)
    for process in reading.processes[:_MOST_PROCESSES]:
        sizes = (process.rss_bytes, reading.pss_by_pid.get(process.pid), process.peak_rss_bytes)
        rows.add_row(str(process.pid), Text(process.name), *(format_bytes(size) for size in sizes))
    left = reading.processes[_MOST_PROCESSES:]
    if left:
        rows.add_row("", f"and {len(left)} more", format_bytes(sum(process.rss_bytes for process in left)), "", "")
    return rows

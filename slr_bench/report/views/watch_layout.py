"""A live reading as people and programs see it: a screen, a line, a JSON object; and the line at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slr_bench.probes.live import GpuNow, LiveReading, Peaks
from slr_bench.probes.thresholds import Level, Thresholds
from slr_bench.report.text.words import plain
from slr_bench.units import format_bytes, format_seconds, sparkline

_STYLES: dict[Level, str] = {"ok": "green", "warning": "yellow", "critical": "bold red"}
_MOST_PROCESSES = 12
_SPARK_WIDTH = 24


def screen(
    reading: LiveReading, peaks: Peaks, history: Sequence[float], thresholds: Thresholds, no_gpu: str | None
) -> RenderableType:
    """Everything, in at most 80 columns: limit, sparkline, a row a GPU, a row a process."""
    parts: list[RenderableType] = [_memory_table(reading, peaks, history, thresholds)]
    if reading.gpus:
        parts.append(_gpu_table(reading.gpus, thresholds))
    elif no_gpu:
        parts.append(Text("no GPU readings; slr-bench doctor says why", style="dim"))
    if reading.processes:
        parts.append(_process_table(reading))
    return Group(*parts)


def line(reading: LiveReading, peaks: Peaks, thresholds: Thresholds, clock: str) -> str:
    """One reading in one line, for a pipe or a log."""
    parts = [f"{clock}  {_what(reading)} {format_bytes(reading.ram_bytes)}"] if reading.processes else [clock]
    share = f"{reading.memory.source} {_share(reading)}{_mark(reading.used_fraction, thresholds)}"
    peak = f"peak {format_bytes(peaks.ram_bytes[reading.ram_kind])}"
    parts += [peak, share] if reading.processes else [share, peak]
    for gpu in reading.gpus:
        words = [f"GPU {gpu.number}"]
        if reading.processes:
            words.append(f"process {format_bytes(gpu.reading.process_bytes)}")
        words += [_device_use(gpu), _percent(gpu.state.utilization_ratio), _degrees(gpu.state.temperature_c)]
        words += gpu.state.throttle_reasons or ()
        parts.append(" ".join(words) + _mark(_device_fraction(gpu), thresholds))
    return "  ".join(parts)


def as_json(reading: LiveReading, thresholds: Thresholds, time: str, no_gpu: str | None = None) -> dict[str, Any]:
    """One reading as an object; what is not known is null, and ``reasons`` has why. ``no_gpu`` has why there is no GPU,
    and is left out where it was said before, or where there is one.
    """
    found = {
        "time": time,
        "ram_bytes": reading.ram_bytes,
        "ram_kind": reading.ram_kind,
        "rss_bytes": reading.rss_bytes,
        "pss_bytes": reading.pss_bytes,
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


def summary(peaks: Peaks, what: str, ending: str, duration_s: float) -> str:
    """The last line: how it ended, and the peaks."""
    if not peaks.readings:
        return f"{what}: {ending} before it could be looked at"
    parts = [f"{what}: {ending} after {format_seconds(duration_s)}, {peaks.readings} readings"]
    parts += [f"peak {_KINDS[kind]} {format_bytes(size)}" for kind, size in peaks.ram_bytes.items()]
    if peaks.high_water_bytes is not None:
        parts.append(f"kernel's mark of the first process {format_bytes(peaks.high_water_bytes)}")
    parts += [f"GPU {number} {format_bytes(size)} of the process" for number, size in peaks.gpu_bytes.items()]
    parts += [f"GPU {number} {format_bytes(size)} in use" for number, size in peaks.device_bytes.items()]
    return "; ".join(parts)


def summary_json(peaks: Peaks, ending: str, duration_s: float) -> dict[str, Any]:
    """The same as an object under ``summary``."""
    found = {
        "ending": ending,
        "duration_s": round(duration_s, 3),
        "readings": peaks.readings,
        "peak_ram_bytes": peaks.ram_bytes,
        "peak_used_bytes": peaks.used_bytes if peaks.readings else None,
        "high_water_bytes": peaks.high_water_bytes,
        "peak_gpu_process_bytes": peaks.gpu_bytes,
        "peak_gpu_device_bytes": peaks.device_bytes,
    }
    return {"summary": found}


_KINDS = {"PSS": "RAM", "RSS": "RAM (RSS, shared pages counted several times)", "used": "RAM in use"}


def _what(reading: LiveReading) -> str:
    return {"PSS": "RAM", "RSS": "RAM (RSS)"}[reading.ram_kind]


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
        kind = "RAM, shared once" if reading.ram_kind == "PSS" else "RAM, RSS summed"
        peak = f"peak {format_bytes(peaks.ram_bytes[reading.ram_kind])}"
        rows.add_row(kind, Text(format_bytes(reading.ram_bytes), style="bold"), peak, _spark(history))
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
    for name in ("PID", "process", "RSS", "PSS", "peak RSS"):
        rows.add_column(name, justify="left" if name == "process" else "right", no_wrap=True)
    for process in reading.processes[:_MOST_PROCESSES]:
        sizes = (process.rss_bytes, reading.pss_by_pid.get(process.pid), process.peak_rss_bytes)
        rows.add_row(str(process.pid), Text(process.name), *(format_bytes(size) for size in sizes))
    left = reading.processes[_MOST_PROCESSES:]
    if left:
        rows.add_row("", f"and {len(left)} more", format_bytes(sum(process.rss_bytes for process in left)), "", "")
    return rows

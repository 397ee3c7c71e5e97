"""Print predictions and calibrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from slr_bench.grid.cells import Cell as GridCell
from slr_bench.predict.calibrate import Calibration
from slr_bench.predict.device import Estimate, Fit
from slr_bench.predict.host import START_BYTES, HostPrediction
from slr_bench.predict.peak import CardFit, Prediction
from slr_bench.predict.trace_pool import Refusal
from slr_bench.report.formats.table import Cell, Column, Row, Table, Tone
from slr_bench.report.formats.terminal import print_table
from slr_bench.report.views.profile import MEANINGS
from slr_bench.units import format_bytes, plain

OPERATORS_SHOWN: Final = 5
_BY_RULE: Final = "not measured; the estimate stays"
_VERDICTS: Final[Mapping[Fit, tuple[str, Tone]]] = {
    Fit.YES: ("fits", "good"),
    Fit.NO: ("does not fit", "bad"),
    Fit.MAYBE: ("may fit", "warn"),
    Fit.NO_CARD: ("", ""),
}
TIGHT: Final[tuple[str, Tone]] = ("fits tightly", "warn")
_STYLES: Final[dict[Tone, str]] = {"": "", "good": "green", "bad": "red", "warn": "yellow"}
_BOUNDS: Final = "Least and most are bounds (workspaces and context are unknown), not a measured 90 % interval."
_KINDS: Final = (
    ("NVML", "nvml", "context and reserved memory, as nvidia-smi shows it"),
    ("context", "context", "CUDA and libraries outside torch's allocator"),
    ("reserved", "reserved", "segments of torch's allocator"),
    ("allocated", "allocated", "blocks in use, rounded up"),
    ("requested", "requested", "what tensors and operators request"),
)


def print_prediction(
    cell: GridCell, found: Prediction | HostPrediction, cards: Mapping[str, CardFit], console: Console
) -> None:
    """Print the prediction for one setting. ``cards`` are the GPUs to report on if no device was named."""
    step = found.step
    where = found.device.title if isinstance(found, Prediction) else "the CPU"
    title = f"Memory of {cell.spec.name}, arm {cell.arm}, on {where}"
    console.print(Text(plain(title, 200), style="bold"))
    if isinstance(found, Prediction):
        _print_verdict(found, console)
        rows = [(name, getattr(found, kind), meaning) for name, kind, meaning in _KINDS]
    else:
        _print_host_verdict(found, console)
        rows = [("over start", found.rss_over_start, "high-water mark of the process minus its memory at the start")]
    columns = (Column(""), Column("Expected", True), Column("Least", True), Column("Most", True), Column(""))
    print_table(Table("Peak of a steady step", columns, tuple(_estimate(*row) for row in rows)), console)
    peak = step.peak_tensor_bytes
    parts = tuple(
        Row((Cell(name), Cell(format_bytes(count)), Cell(f"{100 * count / peak:.1f} %"), Cell(MEANINGS.get(name, ""))))
        for name, count in step.by_category.items()
    )
    heads = (Column("Category"), Column("Bytes", True), Column("Share", True), Column("", spare=True))
    print_table(Table(f"Tensors at the peak: {format_bytes(peak)}", heads, parts), console)
    for line in remarks([found]):
        console.print(Text(line, style="dim"))
    _print_cards(cards, console)


def _estimate(name: str, estimate: Estimate, meaning: str) -> Row:
    values = (estimate.value, estimate.low, estimate.high)
    return Row((Cell(name), *(Cell(format_bytes(count), sort=count) for count in values), Cell(meaning)))


def _print_verdict(found: Prediction, console: Console) -> None:
    if found.incompatibility is not None:
        console.print(Text(f"It cannot run on this GPU: {found.incompatibility}.", style=_STYLES["bad"]))
        return
    if found.device.capacity_bytes is None or found.spare_bytes is None:
        return
    verdict, tone = verdict_of(found)
    spare = found.spare_bytes
    left = f"{format_bytes(spare)} to spare" if spare >= 0 else f"{format_bytes(-spare)} too much"
    of = f"{format_bytes(found.nvml.value)} of {format_bytes(found.device.capacity_bytes)}"
    console.print(Text(f"It {verdict}: {of}, {left}.", style=_STYLES[tone]))
    if found.is_tight:
        console.print(Text(pressure(found.retries or 0), style=_STYLES[tone]))


def verdict_of(found: Prediction) -> tuple[str, Tone]:
    """Return the verdict in words; empty if no GPU is given."""
    if found.incompatibility is not None:
        return "cannot run on it", "bad"
    if found.device.capacity_bytes is None:
        return "", ""
    return TIGHT if found.is_tight else _VERDICTS[found.fit]


def pressure(retries: int) -> str:
    """Return what a setting costs that fits only if cached memory is released."""
    when = f"{retries}× per step" if retries else "in the first step"
    return (
        f"In the worst case it releases cached memory {when} to fit, and waits for the GPU each time. "
        "The duration is unknown. --alloc-conf expandable_segments:True may need less memory."
    )


def _print_host_verdict(found: HostPrediction, console: Console) -> None:
    if found.capacity_bytes is None:
        return
    verdict, tone = _VERDICTS[found.fit]
    whole = format_bytes(found.rss_over_start.value + START_BYTES)
    room = format_bytes(found.capacity_bytes)
    text = f"It {verdict}: {whole}, including the memory of a process before the step, of {room} free."
    console.print(Text(text, style=_STYLES[tone]))


def remarks(found: Sequence[Prediction | HostPrediction]) -> list[str]:
    """Return how certain the predictions for one device are."""
    on_gpu = [one for one in found if isinstance(one, Prediction)]
    if not on_gpu:
        return [
            "Tensors are exact to the byte; the high-water mark is an estimate, within 10 % or 100 MiB.",
            f"A process that has only imported torch needs another {format_bytes(START_BYTES)} or so. "
            "Free memory is what was free at the time of the prediction.",
        ]
    lines = [_BOUNDS]
    most: dict[str, int] = {}
    for one in on_gpu:
        for entry in one.step.unmodelled:
            most[entry.operator] = max(entry.most_bytes, most.get(entry.operator, 0))
    if most:
        largest = sorted(most.items(), key=lambda item: -item[1])
        named = ", ".join(f"{name} (up to {format_bytes(size)})" for name, size in largest[:OPERATORS_SHOWN])
        more = len(most) - OPERATORS_SHOWN
        named += f" and {more} more" if more > 0 else ""
        lines.append(f"Not modelled, so only part of the interval: {named}.")
    device = on_gpu[0].device
    if device.calibration is not None:
        lines.append(f"Calibrated on {device.calibration}.")
    if device.shares_memory:
        lines.append(
            "The system and the processor use the same memory; give the free part with --gpu-memory, for example 5GiB."
        )
    if not device.is_calibrated:
        lines.append(
            "Context and workspaces of this GPU are estimated, not measured; `make calibrate` on one measures them."
        )
    return lines


def _print_cards(cards: Mapping[str, CardFit], console: Console) -> None:
    """Print the known GPUs, grouped by verdict."""
    groups: dict[tuple[str, Tone], list[str]] = {_VERDICTS[fits]: [] for fits in (Fit.YES, Fit.MAYBE, Fit.NO)}
    for name, (card, fits, lacks) in cards.items():
        verdict: tuple[str, Tone] = _VERDICTS[fits] if lacks is None else ("cannot run, in bf16, on", "bad")
        groups.setdefault(verdict, []).append(f"{name} ({format_bytes(card.capacity_bytes)})")
    for (text, tone), names in groups.items():
        if names:
            console.print(Text(f"It {text}: ", style=_STYLES[tone]) + Text(", ".join(names)))


def print_cells(
    cells: Sequence[GridCell], found: Sequence[Prediction | HostPrediction | Refusal], console: Console
) -> None:
    """Print the predictions for the cells of a grid."""
    several = len({cell.spec.name for cell in cells}) > 1
    rows = []
    for cell, one in zip(cells, found, strict=True):
        axes = " · ".join(map(str, cell.coordinates.values()))
        name = f"{cell.arm}{' · ' + axes if axes else ''}" + (f" · {cell.spec.name}" if several else "")
        rows.append(Row((*_figures(one), Cell(plain(name, 120)))))
    keys = dict.fromkeys(key.rpartition(".")[2] for cell in cells for key in cell.coordinates)
    numbers = (Column("Expected", True), Column("Tensors", True, spare=True), Column("Least to most", True))
    columns = (*numbers, Column(""), Column(" · ".join(("arm", *keys))))
    print_table(Table("Predicted peak of a steady step", columns, tuple(rows)), console)
    for line in remarks([one for one in found if not isinstance(one, Refusal)]):
        console.print(Text(line, style="dim"))
    for line in dict.fromkeys(
        one.incompatibility for one in found if isinstance(one, Prediction) and one.incompatibility
    ):
        console.print(Text(f"{line}.", style=_STYLES["bad"]))
    interpolated = sum(not isinstance(one, Refusal) and one.step.interpolated_from is not None for one in found)
    if interpolated:
        text = f"{interpolated} of {len(found)} are interpolated from traces of a smaller and a larger micro-batch."
        console.print(Text(text, style="dim"))


def _figures(one: Prediction | HostPrediction | Refusal) -> tuple[Cell, ...]:
    if isinstance(one, Refusal):
        return Cell("–"), Cell("–"), Cell("–"), Cell(plain(f"unsupported: {one.reason}", 160), tone="warn")
    whole: Any = one.nvml if isinstance(one, Prediction) else one.rss_over_start
    if isinstance(one, Prediction):
        verdict, tone = verdict_of(one)
    else:
        verdict, tone = _VERDICTS[one.fit]
    peak = one.step.peak_tensor_bytes
    return (
        Cell(format_bytes(whole.value), sort=whole.value),
        Cell(format_bytes(peak), sort=peak),
        Cell(f"{format_bytes(whole.low)} to {format_bytes(whole.high)}", sort=whole.low),
        Cell(verdict, tone=tone),
    )


def print_calibration(found: Calibration, written: Sequence[Path], console: Console) -> None:
    """Print what was measured, what was not and why, and the files."""
    entry = found.entry
    lines = [
        f"Context beside the allocator: {_context(entry['context_bytes'])}",
        f"cuBLAS workspace per thread: {_bytes(entry['cublas_workspace_bytes'])}",
        f"Operators' internal memory, as a share of the bounds: {_shares(entry['shares'])}",
        f"Allocator histories: {len(found.traces)}",
    ]
    console.print(Text(f"{entry['measured_on']}: device {found.name}", style="bold"))
    for line in lines:
        console.print(Text(line))
    for note in found.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
    for path in written:
        console.print(f"written: {path}", soft_wrap=True, markup=False, highlight=False)


def _bytes(value: int | None) -> str:
    return _BY_RULE if value is None else format_bytes(value)


def _context(value: Mapping[str, int] | None) -> str:
    if value is None:
        return _BY_RULE
    return f"{format_bytes(value['median'])} ({format_bytes(value['low'])} to {format_bytes(value['high'])})"


def _shares(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return _BY_RULE
    kinds = (("where all of it is expected", value["sure"]), ("elsewhere", value["possible"]))
    return "; ".join(
        f"{100 * share['value']:.0f} % ({100 * share['low']:.0f} to {100 * share['high']:.0f}) {where}"
        for where, share in kinds
    )

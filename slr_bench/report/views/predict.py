"""Predictions as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from slr_bench.grid.cells import Cell as GridCell
from slr_bench.predict.device import Estimate, Fit
from slr_bench.predict.host import START_BYTES, HostPrediction
from slr_bench.predict.peak import CardFit, Prediction
from slr_bench.predict.step_profile import Refusal
from slr_bench.report.formats.table import Cell, Column, Row, Table, Tone
from slr_bench.report.formats.terminal import print_table
from slr_bench.report.text.words import plain
from slr_bench.report.views.profile import MEANINGS
from slr_bench.units import format_bytes

OPERATORS_SHOWN: Final = 5
_VERDICTS: Final[Mapping[Fit, tuple[str, Tone]]] = {
    Fit.YES: ("fits", "good"),
    Fit.NO: ("does not fit", "bad"),
    Fit.MAYBE: ("may fit", "warn"),
    Fit.NO_CARD: ("", ""),
}
TIGHT: Final[tuple[str, Tone]] = ("fits tightly", "warn")
_STYLES: Final[dict[Tone, str]] = {"": "", "good": "green", "bad": "red", "warn": "yellow"}
_ENDS: Final = "Least and most are the ends of what is not known, workspaces and context; not a measured 90 %."
_KINDS: Final = (
    ("NVML", "nvml", "context and reserved: what nvidia-smi shows of the process"),
    ("reserved", "reserved", "segments of torch's allocator"),
    ("allocated", "allocated", "blocks given out, rounded up"),
    ("requested", "requested", "what tensors and operators ask for"),
)


def print_prediction(
    cell: GridCell, found: Prediction | HostPrediction, cards: Mapping[str, CardFit], console: Console
) -> None:
    """One setting. ``cards``: where it fits, where no device was named."""
    step = found.step
    where = found.device.title if isinstance(found, Prediction) else "the CPU"
    title = f"Memory of {cell.spec.name}, arm {cell.arm}, on {where}"
    console.print(Text(plain(title, 200), style="bold"))
    if isinstance(found, Prediction):
        _print_verdict(found, console)
        rows = [(name, getattr(found, kind), meaning) for name, kind, meaning in _KINDS]
    else:
        _print_host_verdict(found, console)
        rows = [("over start", found.rss_over_start, "high-water mark of the process over its start")]
    ends = (Column(""), Column("Expected", True), Column("Least", True), Column("Most", True), Column(""))
    print_table(Table("Peak of a steady step", ends, tuple(_estimate(*row) for row in rows)), console)
    peak = step.peak_tensor_bytes
    parts = tuple(
        Row((Cell(name), Cell(format_bytes(count)), Cell(f"{100 * count / peak:.1f} %"), Cell(MEANINGS.get(name, ""))))
        for name, count in step.by_category.items()
    )
    columns = (Column("Category"), Column("Bytes", True), Column("Share", True), Column("", spare=True))
    print_table(Table(f"Tensors at the peak: {format_bytes(peak)}", columns, parts), console)
    for line in remarks([found]):
        console.print(Text(line, style="dim"))
    _print_cards(cards, console)


def _estimate(name: str, estimate: Estimate, meaning: str) -> Row:
    ends = (estimate.value, estimate.low, estimate.high)
    return Row((Cell(name), *(Cell(format_bytes(count), sort=count) for count in ends), Cell(meaning)))


def _print_verdict(found: Prediction, console: Console) -> None:
    if found.incompatibility is not None:
        console.print(Text(f"It cannot run there: {found.incompatibility}.", style=_STYLES["bad"]))
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
    """In words; nothing where no card is meant."""
    if found.incompatibility is not None:
        return "cannot run there", "bad"
    if found.device.capacity_bytes is None:
        return "", ""
    return TIGHT if found.is_tight else _VERDICTS[found.fit]


def pressure(retries: int) -> str:
    """What a setting pays that fits tightly."""
    when = f"{retries}× a step" if retries else "in the first step"
    return (
        f"At worst it gives cached memory back {when} to stay in there, and waits for the GPU each time: "
        "how long is not known. --alloc-conf expandable_segments:True may need less."
    )


def _print_host_verdict(found: HostPrediction, console: Console) -> None:
    if found.capacity_bytes is None:
        return
    verdict, tone = _VERDICTS[found.fit]
    whole = format_bytes(found.rss_over_start.value + START_BYTES)
    room = format_bytes(found.capacity_bytes)
    text = f"It {verdict}: {whole}, with what a process takes before the step, of {room} free."
    console.print(Text(text, style=_STYLES[tone]))


def remarks(found: Sequence[Prediction | HostPrediction]) -> list[str]:
    """How sure the figures are, of predictions for one device."""
    on_gpu = [one for one in found if isinstance(one, Prediction)]
    if not on_gpu:
        return [
            "Tensors are exact to the byte; the high-water mark is a rule's, within 10 % or 100 MiB.",
            f"A process that has imported torch and done nothing takes about {format_bytes(START_BYTES)}, which comes "
            "on top; what is free is what was free just now.",
        ]
    lines = [_ENDS]
    most: dict[str, int] = {}
    for one in on_gpu:
        for entry in one.step.unmodelled:
            most[entry.operator] = max(entry.most_bytes, most.get(entry.operator, 0))
    if most:
        largest = sorted(most.items(), key=lambda item: -item[1])
        named = ", ".join(f"{name} (up to {format_bytes(size)})" for name, size in largest[:OPERATORS_SHOWN])
        more = len(most) - OPERATORS_SHOWN
        lines.append(f"Not modelled, so in the interval only: {named}" + (f" and {more} more." if more > 0 else "."))
    device = on_gpu[0].device
    if device.calibration is not None:
        lines.append(f"Calibrated on {device.calibration}.")
    if not device.is_calibrated:
        lines.append(
            "Context and workspaces of this card are rules, not measured; `make calibrate` on one measures them."
        )
    return lines


def _print_cards(cards: Mapping[str, CardFit], console: Console) -> None:
    """Every card that is known by what is said of it."""
    alike: dict[tuple[str, Tone], list[str]] = {_VERDICTS[fits]: [] for fits in (Fit.YES, Fit.MAYBE, Fit.NO)}
    for name, (card, fits, lacks) in cards.items():
        said: tuple[str, Tone] = _VERDICTS[fits] if lacks is None else ("cannot run, in bf16, on", "bad")
        alike.setdefault(said, []).append(f"{name} ({format_bytes(card.capacity_bytes)})")
    for (text, tone), names in alike.items():
        if names:
            console.print(Text(f"It {text}: ", style=_STYLES[tone]) + Text(", ".join(names)))


def print_cells(
    cells: Sequence[GridCell], found: Sequence[Prediction | HostPrediction | Refusal], console: Console
) -> None:
    """A grid."""
    several = len({cell.spec.name for cell in cells}) > 1
    rows = []
    for cell, one in zip(cells, found, strict=True):
        axes = " · ".join(map(str, cell.coordinates.values()))
        name = f"{cell.arm}{' · ' + axes if axes else ''}" + (f" · {cell.spec.name}" if several else "")
        rows.append(Row((*_figures(one), Cell(plain(name, 120)))))
    keys = dict.fromkeys(key.rpartition(".")[2] for cell in cells for key in cell.coordinates)
    columns = (
        Column("Expected", True),
        Column("Tensors", True, spare=True),
        Column("Least to most", True),
        Column(""),
        Column(" · ".join(("arm", *keys))),
    )
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

"""A calibration as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from slr_bench.predict.calibrate import Calibration
from slr_bench.units import format_bytes

_BY_RULE = "not measured, stays a rule's"


def print_calibration(found: Calibration, written: Sequence[Path], console: Console) -> None:
    """What was measured, what was not and why, and where it is."""
    entry = found.entry
    lines = [
        f"Context beside the allocator: {_context(entry['context_bytes'])}",
        f"cuBLAS workspace a thread: {_bytes(entry['cublas_workspace_bytes'])}",
        f"Operators' inner memory, of the rules' bounds: {_shares(entry['shares'])}",
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
    kinds = (("where the whole is expected", value["sure"]), ("elsewhere", value["possible"]))
    return "; ".join(
        f"{100 * share['value']:.0f} % ({100 * share['low']:.0f} to {100 * share['high']:.0f}) {where}"
        for where, share in kinds
    )

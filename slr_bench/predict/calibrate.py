"""A card measured: from what its children found to the file that ``predict`` reads in place of rules. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, Protocol

from slr_bench.errors import SlrBenchError
from slr_bench.grid.cells import Cell
from slr_bench.predict.allocator.golden import SUFFIX, GoldenTrace, differences, golden_trace, write_golden
from slr_bench.predict.device import SMALL_WORKSPACE_BYTES, Device, known_devices

LEAST_READINGS: Final = 3
"""Fewer tell nothing of how a figure spreads: it stays a rule's."""
_SAME_CAPACITY: Final = 0.05
"""How much two readings of one card's capacity may differ, relative."""
_NO_PART_OF_THE_NAME: Final = re.compile(r"\b(?:nvidia|geforce|tesla|\d+\s?gb|sxm\d*|pcie|hbm\w*)\b", re.IGNORECASE)

Found = Mapping[str, Any]
"""As ``run.calibration_cell`` gives it."""
Told = Callable[[str], None]


class Children(Protocol):
    """Processes of their own on the GPU."""

    def operators(self, told: Told) -> Found:
        """The first call and the operators."""

    def steps(self, cell: Cell) -> Found:
        """A cell's steps, recorded.

        Raises:
            SlrBenchError: it ended otherwise.
        """


@dataclass(frozen=True)
class Calibration:
    """What was measured of one card."""

    name: str
    entry: Mapping[str, Any]
    """What ``devices/<name>.json`` holds."""
    traces: Mapping[str, GoldenTrace]
    """By file name."""
    notes: Sequence[str]
    """What could not be measured, or was otherwise than the rules say."""


def calibrate(cells: Sequence[Cell], children: Children, told: Told) -> Calibration:
    """Measure the card behind ``children``: operators first, then each cell's steps. A step that fails costs itself.

    Raises:
        SlrBenchError: there is no GPU, or the operators could not be measured.
    """
    operators = children.operators(lambda title: told(f"operators: {title}"))
    traces: dict[str, GoldenTrace] = {}
    notes = []
    name = card_name(operators["facts"]["gpu"], operators["facts"]["capacity_bytes"], known_devices())
    for number, cell in enumerate(cells):
        told(f"steps {number + 1} of {len(cells)}: {cell.arm}")
        identity = {"workload": cell.spec.name, "arm": cell.arm, "cell_id": cell.cell_id}
        try:
            trace = golden_trace({**identity, "setting": cell.public_setting}, children.steps(cell))
        except SlrBenchError as error:
            notes.append(f"no trace of {cell.arm} ({cell.cell_id}): {error}")
            continue
        traces[_file_name(name, trace)] = trace
        notes += [f"{cell.arm} ({cell.cell_id}) is not replayed to the byte: {one}" for one in differences(trace)]
    entry = device_entry(operators, list(traces.values()))
    return Calibration(name, entry, traces, [*notes, *_surprises(operators["operators"]), *entry["not_measured"]])


def write_calibration(found: Calibration, devices: Path, traces: Path | None) -> list[Path]:
    """The device's file, and a file a trace where a directory is given; their paths."""
    devices.mkdir(parents=True, exist_ok=True)
    written = [devices / f"{found.name}.json"]
    written[0].write_text(json.dumps(found.entry, indent=1) + "\n")
    if traces is not None:
        traces.mkdir(parents=True, exist_ok=True)
        for name, trace in found.traces.items():
            write_golden(trace, traces / name)
            written.append(traces / name)
    return written


def device_entry(operators: Found, traces: Sequence[GoldenTrace]) -> dict[str, Any]:
    """``devices/<name>.json``. What is null stays a rule's, and ``not_measured`` says why."""
    facts, rows = operators["facts"], operators["operators"]
    not_measured: list[str] = []

    def or_note(value: Any, why: str) -> Any:
        if value is None:
            not_measured.append(why)
        return value

    readings = [trace.context for trace in traces]
    silent = next((one["reason"] for one in readings if one["reason"]), f"{len(readings)} steps ended")
    versions = (f"torch {facts['torch']}", f"CUDA {facts.get('cuda')}", f"driver {facts.get('driver')}")
    return {
        "title": facts["gpu"],
        "capacity_bytes": facts["capacity_bytes"],
        "compute_capability": facts["compute_capability"],
        "measured_on": ", ".join((facts["gpu"], *versions)),
        "facts": facts,
        "cublas_workspace_bytes": or_note(_cublas_bytes(rows), "cuBLAS's workspace: no product could be called"),
        "context_bytes": or_note(
            _context([one["bytes"] for one in readings if one["bytes"] is not None]),
            f"context: fewer than {LEAST_READINGS} readings ({silent})",
        ),
        "context_first_call": operators["first_call"],
        "context_readings": readings,
        "shares": or_note(_shares(rows), f"operators: fewer than {LEAST_READINGS} of a kind could be called"),
        "operators": rows,
        "not_measured": not_measured,
    }


def card_name(title: str, capacity_bytes: int, known: Mapping[str, Device]) -> str:
    """The listed name of a card that calls itself ``title``, or one made of the title."""
    for name, card in known.items():
        is_as_large = card.capacity_bytes is not None and (
            abs(card.capacity_bytes - capacity_bytes) <= _SAME_CAPACITY * capacity_bytes
        )
        if is_as_large and _model(card.title) == _model(title):
            return name
    return re.sub(r"[^a-z0-9]+", "-", title.lower().replace("nvidia", "")).strip("-")


def _model(title: str) -> str:
    """``NVIDIA A100-SXM4-80GB`` -> ``a100``."""
    return re.sub(r"[^a-z0-9]", "", _NO_PART_OF_THE_NAME.sub("", title.lower()))


def _cublas_bytes(rows: Sequence[Found]) -> int | None:
    """What products keep together; where nothing is kept (torch 2.15), the most that one takes while it runs."""
    products = [row for row in rows if row["is_product"] and row["kept_bytes"] is not None]
    if not products:
        return None
    kept = sum(int(row["kept_bytes"]) for row in products)
    return kept or max(int(row["workspace_bytes"]) for row in products)


def _context(readings: Sequence[int]) -> dict[str, int] | None:
    """The middle one, and ends beyond the outermost: as far as those of an even spread are expected to lie."""
    if len(readings) < LEAST_READINGS:
        return None
    low, high = min(readings), max(readings)
    beyond = round((high - low) / (len(readings) - 1))
    return {"median": round(median(readings)), "low": max(0, low - beyond), "high": high + beyond}


def _shares(rows: Sequence[Found]) -> dict[str, Any] | None:
    large = [row for row in rows if row["workspace_bytes"] is not None and row["most_bytes"] > SMALL_WORKSPACE_BYTES]
    sure = [row for row in large if row["expected_bytes"] == row["most_bytes"]]
    possible = [row for row in large if row["expected_bytes"] < row["most_bytes"]]
    if min(len(sure), len(possible)) < LEAST_READINGS:
        return None
    return {"sure": _share(sure), "possible": _share(possible)}


def _share(rows: Sequence[Found]) -> dict[str, float]:
    parts = [row["workspace_bytes"] / row["most_bytes"] for row in rows]
    whole = sum(row["workspace_bytes"] for row in rows) / sum(row["most_bytes"] for row in rows)
    return {"value": whole, "low": min(parts), "high": max(parts)}


def _surprises(rows: Sequence[Found]) -> list[str]:
    """Operators that took more than the rules' bound, and those that keep memory without being products."""
    found = []
    for row in rows:
        title = ", ".join(part for part in (row["operator"], row["precision"], row["layout"]) if part)
        if row["reason"] is not None:
            found.append(f"{title}: not measured, {row['reason']}")
            continue
        if not row["is_product"] and row["workspace_bytes"] > row["most_bytes"]:
            found.append(f"{title}: {row['workspace_bytes']} bytes, the rule's bound is {row['most_bytes']}")
        if not row["is_product"] and row["kept_bytes"]:
            found.append(f"{title}: keeps {row['kept_bytes']} bytes, which no rule knows")
    return found


def _file_name(card: str, trace: GoldenTrace) -> str:
    facts = trace.facts
    settings = facts.get("PYTORCH_ALLOC_CONF") or facts.get("PYTORCH_CUDA_ALLOC_CONF") or ""
    conf = re.sub(r"[^a-z0-9]+", "-", settings.lower())
    parts = (card, facts["torch"].partition("+")[0], trace.setting["cell_id"], conf)
    return "_".join(part for part in parts if part) + SUFFIX

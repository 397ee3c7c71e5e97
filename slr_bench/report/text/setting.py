"""Which setting was measured: the facts that a figure is meaningless without, and what the arms differ in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from slr_bench.compare.cells import CellSummary, own_cell
from slr_bench.files import flatten, lookup
from slr_bench.report.formats.table import Cell, Column, Row, Table, transposed
from slr_bench.report.text.words import plain

_NAMED: Final = 3
"""Arms that a sentence names."""


def value_text(value: Any) -> str:
    """A setting's value as YAML would have it: ``bf16``, ``true``, ``[1, 2, 4]``."""
    return plain(value if isinstance(value, str) else json.dumps(value), 80)


def effective_batch(setting: Mapping[str, Any]) -> int | None:
    """Clips the optimizer sees a step; None for a setting without batches."""
    micro = lookup(setting, "training.batch_size")
    steps = lookup(setting, "training.gradient_accumulation_steps")
    return micro * steps if isinstance(micro, int) and isinstance(steps, int) else None


def main_workload(cells: Sequence[CellSummary], default: str) -> str:
    """The workload whose memory and time the pictures show: ``train_step`` where it was run."""
    present = {cell.entry.workload for cell in cells}
    return "train_step" if "train_step" in present else default


def measured_sentence(
    cells: Sequence[CellSummary], arms: Sequence[str], workload: str, environment: Mapping[str, Any]
) -> str:
    """Device, clips and each arm's batch and precision, as far as the settings say."""
    own = {arm: cell.entry.setting for arm in arms if (cell := own_cell(cells, arm, workload))}
    device = str(environment.get("device") or "unknown device")
    name = environment.get("gpu") if device.startswith("cuda") else environment.get("cpu")
    cores = environment.get("cores")
    about = [str(name)] if name else []
    about += [f"{cores} cores"] if cores else []
    place = plain(f"{device} ({', '.join(about)})" if about else device, 120)
    traced = {arm for arm in own if is_fake(own_cell(cells, arm, workload))}
    parts = [f"Measured on {place}"]
    if traced and len(traced) == len(own):  # which machine counted is no matter
        parts = [f"Traced on fake tensors for {plain(device, 40)}: no data, nothing computed"]
    clip = {_clip_text(setting) for setting in own.values()} - {""}
    parts += [" or ".join(sorted(clip))] if clip else []
    steps: dict[str, list[str]] = {}
    for arm, setting in own.items():
        steps.setdefault(_step_text(setting), []).append(plain(arm, 40))
    parts += [f"{_listed(alike, len(own))}: {text}" for text, alike in steps.items() if text]
    return "; ".join(parts) + "."


def is_fake(cell: CellSummary | None) -> bool:
    """Whether its bytes were traced on fake tensors alone."""
    reading = cell.readings.get("peak_tensor_bytes") if cell else None
    return reading is not None and bool(reading.sources) and all(map(is_fake_source, reading.sources))


def is_fake_source(source: str) -> bool:
    """``cpu-fake``; what is traced by rules of a GPU that is not there is computed by nobody either."""
    return source.endswith(("-fake", "-rules"))


def _listed(arms: Sequence[str], count: int) -> str:
    """``baseline``, ``baseline, optimized``, ``all 20 arms``, ``a, b, c and 4 more``."""
    if len(arms) == count > _NAMED:
        return f"all {count} arms"
    more = f" and {len(arms) - _NAMED} more" if len(arms) > _NAMED else ""
    return ", ".join(arms[:_NAMED]) + more


def _clip_text(setting: Mapping[str, Any]) -> str:
    frames, size = lookup(setting, "model.num_frames"), lookup(setting, "data.frame_size")
    if frames is None or size is None:
        return ""
    return f"clips of {value_text(frames)} frames of {value_text(size)}×{value_text(size)} pixels"


def _step_text(setting: Mapping[str, Any]) -> str:
    batch, precision = effective_batch(setting), lookup(setting, "training.precision")
    if batch is None:
        return ""
    micro, steps = (lookup(setting, f"training.{key}") for key in ("batch_size", "gradient_accumulation_steps"))
    text = f"effective batch {batch} = {micro} × {steps} micro-batches"
    return text if precision is None else f"{text}, {value_text(precision)}"


def batch_warning(cells: Sequence[CellSummary], arms: Sequence[str], workload: str) -> str | None:
    """Said where the arms' own settings do not do the same work in a step."""
    batches = {arm: effective_batch(cell.entry.setting) for arm in arms if (cell := own_cell(cells, arm, workload))}
    if len(set(batches.values())) <= 1:
        return None
    listed = ", ".join(f"{plain(arm, 40)} {batch}" for arm, batch in batches.items())
    return f"The arms differ in effective batch ({listed}): their step times and memory are not for the same work."


def difference_table(cells: Sequence[CellSummary], arms: Sequence[str], workload: str) -> Table | None:
    """Keys whose values differ between the arms' own settings; None for a single arm."""
    own = {arm: flatten(cell.entry.setting) for arm in arms if (cell := own_cell(cells, arm, workload))}
    if len(own) < 2:
        return None
    keys = sorted({key for flat in own.values() for key in flat})
    rows = []
    for key in keys:
        texts = [value_text(flat[key]) if key in flat else "–" for flat in own.values()]
        if len(set(texts)) > 1:
            rows.append(Row((Cell(plain(key, 80)), *(Cell(text) for text in texts))))
    columns = (Column("Key"), *(Column(plain(arm, 40)) for arm in own))
    table = Table("What the arms' own settings differ in", columns, tuple(rows))
    return transposed(table, "Arm") if len(own) > max(_NAMED, len(rows)) else table

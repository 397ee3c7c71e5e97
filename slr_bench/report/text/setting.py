"""Describe what was measured: the facts without which a value means nothing, and what the arms differ in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from slr_bench.compare.cells import CellSummary, own_cell
from slr_bench.files import flatten
from slr_bench.grid.description import value_text as value_text
from slr_bench.report.formats.table import Cell, Column, Row, Table, transposed
from slr_bench.report.text.words import plain

_NAMED: Final = 3
"""Most arms that a sentence names."""


def main_workload(cells: Sequence[CellSummary], default: str) -> str:
    """Return the workload of the charts: the one whose description asks for it with a negative ``report_order``."""
    orders = {cell.entry.workload: cell.description.report_order for cell in cells}
    first = min(orders, key=lambda name: orders[name], default=default)
    return first if orders.get(first, 0) < 0 else default


def measured_sentence(
    cells: Sequence[CellSummary], arms: Sequence[str], workload: str, environment: Mapping[str, object]
) -> str:
    """Return the device, the input of a step, and the setting line of each arm."""
    own = {arm: cell for arm in arms if (cell := own_cell(cells, arm, workload))}
    device = str(environment.get("device") or "unknown device")
    name = environment.get("gpu") if device.startswith("cuda") else environment.get("cpu")
    cores = environment.get("cores")
    about = [str(name)] if name else []
    about += [f"{cores} cores"] if cores else []
    place = plain(f"{device} ({', '.join(about)})" if about else device, 120)
    parts = [f"Measured on {place}"]
    if own and all(map(is_fake, own.values())):  # a traced byte count does not depend on the machine
        parts = [f"Traced on fake tensors for {plain(device, 40)}: no data, nothing computed"]
    inputs = {cell.description.describe_input(cell.entry.setting) for cell in own.values()} - {""}
    parts += [" or ".join(sorted(inputs))] if inputs else []
    arms_by_line: dict[str, list[str]] = {}
    for arm, cell in own.items():
        arms_by_line.setdefault(cell.description.describe(cell.entry.setting), []).append(plain(arm, 40))
    parts += [f"{_listed(alike, len(own))}: {text}" for text, alike in arms_by_line.items() if text]
    return "; ".join(parts) + "."


def is_fake(cell: CellSummary | None) -> bool:
    """Return whether the cell's bytes were traced on fake tensors only."""
    reading = cell.readings.get("peak_tensor_bytes") if cell else None
    return reading is not None and bool(reading.sources) and all(map(is_fake_source, reading.sources))


def is_fake_source(source: str) -> bool:
    """Return whether nothing was computed: fake tensors on a CPU, or the rules of a GPU that is not present."""
    return source.endswith(("-fake", "-rules"))


def _listed(arms: Sequence[str], count: int) -> str:
    """Return ``baseline``, ``baseline, compact``, ``all 20 arms``, or ``a, b, c and 4 more``."""
    if len(arms) == count > _NAMED:
        return f"all {count} arms"
    more = f" and {len(arms) - _NAMED} more" if len(arms) > _NAMED else ""
    return ", ".join(arms[:_NAMED]) + more


def batch_warning(cells: Sequence[CellSummary], arms: Sequence[str], workload: str) -> str | None:
    """Return a warning if the steps of the arms do not do the same amount of work."""
    own = {arm: cell for arm in arms if (cell := own_cell(cells, arm, workload))}
    batches = {arm: cell.description.effective_batch(cell.entry.setting) for arm, cell in own.items()}
    if len(set(batches.values())) <= 1:
        return None
    listed = ", ".join(f"{plain(arm, 40)} {batch}" for arm, batch in batches.items())
    return f"The arms differ in effective batch ({listed}): their step times and memory are not for the same work."


def difference_table(cells: Sequence[CellSummary], arms: Sequence[str], workload: str) -> Table | None:
    """Return the keys whose values differ between the arms' own settings; None for a single arm."""
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

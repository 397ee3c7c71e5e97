"""Word values, outcomes, metrics, the names of cells, and settings, the same in every report."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from slr_bench.compare.cells import CellSummary, own_cell
from slr_bench.compare.statistics import MIN_PROCESSES, VERDICT_ALPHA, Ratio, Summary
from slr_bench.files import flatten
from slr_bench.grid.description import MetricText, WorkloadDescription, value_text
from slr_bench.record import Outcome
from slr_bench.report.formats.table import Cell, Column, Row, Table, transposed
from slr_bench.report.text.metrics import METRICS
from slr_bench.units import format_value, plain

OUTCOME_WORDS: Final = {
    Outcome.OK: "ok",
    Outcome.OOM_GPU: "out of GPU memory",
    Outcome.OOM_HOST: "out of RAM",
    Outcome.TIMEOUT: "timeout",
    Outcome.CRASH: "crash",
    Outcome.SKIPPED_DOMINATED: "skipped",
    Outcome.INVALID_ENV: "invalid environment",
    Outcome.UNSUPPORTED: "unsupported",
}


def uncapitalized(text: str) -> str:
    """Return ``memory`` for ``Memory``; an abbreviation such as ``GPU memory`` stays."""
    return text if text[:2].isupper() else f"{text[:1].lower()}{text[1:]}"


def format_factor(factor: float) -> str:
    """Return ``8.3×`` for 8.31, with two decimals below 2."""
    return f"{factor:.2f}×" if factor < 2 else f"{factor:.1f}×"


def spread(summary: Summary, unit: str) -> str:
    """Return low and high, their kind, and n."""
    low, high = format_value(summary.low, unit), format_value(summary.high, unit)
    if summary.kind == "exact":
        return f"equal in {summary.n}"
    if summary.kind == "disagreement":
        return f"DISAGREES: {low} – {high}, n = {summary.n}"
    if summary.n == 1:
        return "n = 1"
    name = "95 % interval" if summary.kind == "interval" else "min–max"
    return f"{low} – {high} ({name}, n = {summary.n})"


def describe(ratio: Ratio) -> str:
    """Return the range or interval of a ratio, and the verdict if n allows one."""
    if ratio.n == 1:
        return f"one pair; no verdict below {MIN_PROCESSES}"
    limits = f"{ratio.low:.2f}–{ratio.high:.2f}"
    if ratio.verdict == "n too small":
        return f"min–max {limits} of {ratio.n} pairs; no verdict below {MIN_PROCESSES}"
    word = "no clear difference" if ratio.verdict == "same" else ratio.verdict
    return f"{100 * (1 - VERDICT_ALPHA):g} % interval {limits}, {ratio.n} pairs: {word}"


OTHERS: Final = "other arms"
"""Name of the arms that have no colour of their own."""


def axes_text(cell: CellSummary, keys: Collection[str] | None = None) -> str:
    """Return ``size 4, precision bf16`` for all axes or for ``keys``; empty if no axis made the cell."""
    values = cell.entry.coordinates.items()
    return ", ".join(
        f"{key.rsplit('.', 1)[-1]} {value_text(value)}" for key, value in values if keys is None or key in keys
    )


def coordinates_text(cell: CellSummary, keys: Collection[str] | None = None) -> str:
    """Return the axes, and ``own setting`` for the arm's own."""
    axes = axes_text(cell, keys)
    parts = [axes] if axes else []
    if cell.entry.is_own:
        parts.append("own setting")
    if cell.side == "b":
        parts.append("side b")
    return plain(", ".join(parts) or "–", 160)


def anchor(cell: CellSummary) -> str:
    """Return the id on the page. The same setting always has the same id, so that links stay valid."""
    return f"cell-{re.sub(r'[^0-9A-Za-z_-]', '_', cell.entry.cell_id)[:40]}{'-b' if cell.side == 'b' else ''}"


def distinguishing_labels(cells: Sequence[CellSummary]) -> dict[str, str]:
    """Return anchor -> shortest name that distinguishes the cell.

    It has the workload if there are several, the arms with this setting, and only the axes that are needed.
    """
    several = len({cell.entry.workload for cell in cells}) > 1
    kept = {workload: distinguishing_axes(group) for workload, group in _by_workload(cells).items()}
    arms: dict[str, dict[str, None]] = {}
    for cell in cells:
        arms.setdefault(anchor(cell), {})[plain(cell.entry.arm, 40)] = None
    found: dict[str, str] = {}
    for cell in cells:
        workload = f"{plain(cell.entry.workload, 40)} " if several else ""
        rest = coordinates_text(cell, kept[cell.entry.workload])
        name = f"{workload}{' = '.join(arms[anchor(cell)])}" + (f" · {rest}" if rest != "–" else "")
        found.setdefault(anchor(cell), plain(name, 200))
    return found


def _by_workload(cells: Sequence[CellSummary]) -> dict[str, list[CellSummary]]:
    groups: dict[str, list[CellSummary]] = {}
    for cell in cells:
        groups.setdefault(cell.entry.workload, []).append(cell)
    return groups


def distinguishing_axes(cells: Sequence[CellSummary]) -> list[str]:
    """Return the dotted keys of the axes without which two cells of an arm would have the same name.

    Of axes that always change together only the first is used.
    """
    keys = list(dict.fromkeys(key for cell in cells for key in cell.entry.coordinates))
    for key in reversed(keys):
        rest = [other for other in keys if other != key]
        if _count(cells, rest) == _count(cells, keys):
            keys = rest
    return keys


def _count(cells: Sequence[CellSummary], keys: Sequence[str]) -> int:
    """Count the cells that the arm and these axes distinguish."""
    return len({repr((cell.entry.arm, [cell.entry.coordinates.get(key) for key in keys])) for cell in cells})


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


def metric_text(metric: str, *descriptions: WorkloadDescription) -> MetricText | None:
    """Return the words for a metric: those of slr-bench, else those of the first workload that has some."""
    found = (METRICS.get(metric), *(one.metric_text(metric) for one in descriptions))
    return next((text for text in found if text is not None), None)


def in_order(metrics: Iterable[str], *descriptions: WorkloadDescription) -> list[str]:
    """Return metrics in the order in which a report explains them; metrics without words come last."""
    names, order = set(metrics), list(METRICS)
    place = order.index("step_time_s") + 1
    order[place:place] = [one.throughput_metric for one in descriptions]
    place = order.index("parameters")
    order[place:place] = [name for one in descriptions for name in one.metrics]
    known = [name for name in dict.fromkeys(order) if name in names]
    return [*known, *sorted(names.difference(known))]


def label(metric: str, *descriptions: WorkloadDescription) -> str:
    """Return a metric's name with a capital letter; the metric's key if there are no words for it."""
    text = metric_text(metric, *descriptions)
    return text.label[0].upper() + text.label[1:] if text else metric

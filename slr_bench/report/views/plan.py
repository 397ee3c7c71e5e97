"""Print a plan, write it as a training file, and draw it as memory against time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import yaml
from rich.console import Console
from rich.text import Text

from slr_bench.files import flatten
from slr_bench.grid.config import TRAINING_STEP
from slr_bench.predict.plan.result import Evaluated, Plan, Point
from slr_bench.report.charts.model import (
    Dot,
    LegendEntry,
    Scatter,
    Tick,
    memory_scale,
    memory_ticks,
    time_scale,
    time_ticks,
)
from slr_bench.report.formats.table import Cell, Column, Row, Table
from slr_bench.report.formats.terminal import print_table
from slr_bench.report.views.predict import pressure, remarks
from slr_bench.units import format_bytes, format_seconds, plain

if TYPE_CHECKING:
    from slr_bench.report.charts.matplotlib_renderer import Picture

NEIGHBOURS_SHOWN: Final = 8


def print_plan(plan: Plan, console: Console) -> None:
    """Print the choice, the nearest rejected settings with their reasons, and the Pareto front."""
    choice = plan.choice
    best = choice.evaluated[choice.chosen]
    console.print(Text(plain(_headline(plan), 400), style="bold"))
    changes = plan.differences[choice.chosen]
    what = ", ".join(f"{key}: {_value(value)}" for key, value in changes.items())
    console.print(Text(f"Changed: {what or 'nothing; the given setting is the best'}"))
    _print_prediction(plan, console)
    near = plan.rejected[:NEIGHBOURS_SHOWN]
    heads = (Column("Memory", True), Column("Step", True), Column("Setting"), Column("Why not"))
    rows = tuple(
        Row((*_figures(choice.evaluated.get(one.point)), Cell(_name(plan, one.point)), Cell(_brief(one.reason))))
        for one in near
    )
    if rows:
        print_table(Table(f"The {len(near)} nearest of {len(choice.rejected)} rejected settings", heads, rows), console)
    front = tuple(
        Row(
            (
                *_figures(found := choice.evaluated[point]),
                Cell(f"{found.seconds / best.seconds:.2f}×"),
                _verdict(plan, found),
                Cell(_name(plan, point)),
            ),
            strong=point == choice.chosen,
        )
        for point in choice.pareto
    )
    columns = (*heads[:2], Column("Time", True), Column(""), Column("Setting"))
    print_table(Table("Settings that no other beats in both memory and time", columns, front), console)
    sure = remarks([best.prediction]) if best.prediction is not None else ()
    for line in (f"Time: {plan.rates.source}.", *sure, *plan.left_alone):
        console.print(Text(plain(line, 200), style="dim"))


def _brief(reason: str) -> str:
    """Return the reason without the cure, because an impossible setting is not a mistake."""
    return plain(reason.partition(";")[0], 160)


def _figures(found: Evaluated | None) -> tuple[Cell, Cell]:
    if found is None:
        return Cell("–"), Cell("–")
    return Cell(format_bytes(found.need_bytes)), Cell(format_seconds(found.seconds))


def _verdict(plan: Plan, found: Evaluated) -> Cell:
    """Return whether the setting fits the budget."""
    limit = plan.budget.bytes
    if limit is None:
        return Cell("")
    if found.need_bytes > limit:
        return Cell("too large", tone="bad")
    return Cell("tight", tone="warn") if found.is_tight else Cell("fits", tone="good")


def _headline(plan: Plan) -> str:
    choice, budget = plan.choice, plan.budget
    best, count = choice.evaluated[choice.chosen], str(len(choice.evaluated))
    refused = 1 + len(choice.rejected) - len(choice.evaluated)
    count += f" settings ({refused} more are impossible)" if refused else " settings"
    figures = f"at most {format_bytes(best.need_bytes)}, {plan.rates.describe_seconds(best.seconds)}"
    if budget.slower is not None:
        return f"The least memory of {count}, at most {100 * budget.slower:.0f} % slower than the fastest: {figures}"
    return (
        f"The fastest of {count} that fits {format_bytes(budget.total_bytes)} with "
        f"{100 * budget.headroom:.0f} % left free: {figures}"
    )


def _print_prediction(plan: Plan, console: Console) -> None:
    best = plan.choice.evaluated[plan.choice.chosen]
    if best.prediction is None:
        return
    nvml, step = best.prediction.nvml, best.prediction.step
    parts = sorted(step.by_category.items(), key=lambda item: -item[1])[:3]
    named = ", ".join(f"{format_bytes(count)} {name}" for name, count in parts)
    shown = f"{format_bytes(nvml.value)} ({format_bytes(nvml.low)} to {format_bytes(nvml.high)})"
    peak = format_bytes(step.peak_tensor_bytes)
    console.print(Text(f"NVML will show {shown}; tensors at the peak {peak}: {named}"))
    if best.is_tight:
        console.print(Text(pressure(best.prediction.retries or 0), style="yellow"))
    for point, one in plan.measured.items():
        seen = "out of memory" if one.peak_bytes is None else f"{format_bytes(one.peak_bytes)}"
        console.print(Text(f"Measured: {_name(plan, point)}: {seen}, {format_seconds(one.seconds)} per step"))


def _name(plan: Plan, point: Point) -> str:
    changes = plan.differences[point]
    words = [f"{key.rpartition('.')[2]} {_value(value)}" for key, value in changes.items()]
    return plain(", ".join(words) or "as given", 90)


def _value(value: Any) -> str:
    return "null" if value is None else str(value)


def setting_file(plan: Plan) -> str:
    """Return the chosen setting as a training file, or as a grid file for a workload other than the training step."""
    cell = plan.cells[plan.choice.chosen]
    values = cell.settings.model_dump(mode="json")
    if cell.spec.name != TRAINING_STEP:
        values = {"workload": cell.spec.name, "set": flatten(values)}
    head = [f"# {_headline(plan)} on {plan.device.title}."]
    head += ["# Predicted, not measured." if not plan.measured else "# Measured."]
    head += [f"# changed: {key}: {_value(value)}" for key, value in plan.differences[plan.choice.chosen].items()]
    return "\n".join(head) + "\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


_VERDICTS: Final = {
    "": LegendEntry("arm-1", "setting"),
    "fits": LegendEntry("arm-1", "fits"),
    "tight": LegendEntry("warn", "fits tightly"),
    "too large": LegendEntry("rule", "too large"),
}


def plan_picture(plan: Plan) -> Picture:
    """Draw memory against time of every evaluated setting, with the Pareto front, the choice and the budget."""
    from slr_bench.report.charts.matplotlib_renderer import scatter_picture  # matplotlib is imported if it is needed

    choice = plan.choice
    alt = f"Predicted memory against estimated time of {len(choice.evaluated)} settings. {_headline(plan)}."
    return scatter_picture("plan", plain(f"{alt} Chosen: {_name(plan, choice.chosen)}.", 600), plan_chart(plan))


def plan_chart(plan: Plan) -> Scatter:
    """Lay out memory against time of every evaluated setting."""
    found, limit = plan.choice.evaluated, plan.budget.bytes
    chosen, front = found[plan.choice.chosen], [found[point] for point in plan.choice.pareto]
    x = time_scale([one.seconds for one in found.values()])
    y = memory_scale([one.need_bytes for one in found.values()] + ([limit] if limit else []))
    device = plan.device.title
    entries = {point: _VERDICTS[_verdict(plan, one).text] for point, one in found.items()}
    return Scatter(
        title="Predicted memory against estimated time",
        dots=tuple(
            Dot(
                x.position(one.seconds),
                y.position(one.need_bytes),
                entries[point].colour,
                name="chosen" if one is chosen else "",
                is_own=one is chosen,
            )
            for point, one in sorted(found.items(), key=lambda item: item[1] is chosen)  # drawn last, on top
        ),
        front=tuple(sorted((x.position(one.seconds), y.position(one.need_bytes)) for one in front)),
        x_ticks=time_ticks(x),
        y_ticks=memory_ticks(y),
        x_label=f"{'time per step from measured rates' if plan.measured else 'estimated time per step'}, {device}",
        y_label=f"predicted memory, at most{', logarithmic' * y.is_logarithmic}",
        legend=tuple(entry for entry in _VERDICTS.values() if entry in entries.values()),
        front_text="no setting lies below this line",
        limit=None if limit is None else Tick(f"budget {format_bytes(limit)}", y.position(limit)),
    )

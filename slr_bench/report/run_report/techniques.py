"""Shows the savings and costs of each technique between two arms: added one by one, and left out one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import log2, prod
from typing import Final, NamedTuple

from slr_bench.compare.cells import CellSummary, own_cell, pair, why_not_comparable
from slr_bench.grid.config import AblationChain, Same
from slr_bench.report.charts.model import Bar, BarChart, BarRow, LegendEntry, Scale, Tick, doublings
from slr_bench.report.formats.table import Cell, Column, Row, Section, Table, unknown, without_empty_columns
from slr_bench.report.text.wording import describe, format_factor
from slr_bench.units import format_bytes, format_value, plain

MEMORY: Final = "peak_tensor_bytes"
START_COLOUR: Final = "arm-0"
SAME_COLOURS: Final[dict[Same, str]] = {"function": "arm-1", "accuracy": "arm-2"}
SAME_WORDS: Final[dict[Same, str]] = {
    "function": "computes the same function",
    "accuracy": "is judged by accuracy",
}
_JUDGED_BY: Final[dict[Same, str]] = {"function": "equal outputs", "accuracy": "accuracy"}


class AccuracySource(NamedTuple):
    """The workload that trains the arms, and its metric of accuracy."""

    workload: str
    metric: str


@dataclass(frozen=True)
class AblationStep:
    """One technique with the cells that show what it does."""

    name: str
    same: Same
    before: CellSummary | None
    """The techniques before this one."""
    added: CellSummary | None
    """This technique and those before it."""
    end: CellSummary | None
    """All techniques."""
    left_out: CellSummary | None
    """All techniques except this one."""

    @property
    def saving(self) -> float | None:
        """Tensor memory before the technique over tensor memory with it; None where one was not measured."""
        return factor(self.before, self.added)

    @property
    def worth(self) -> float | None:
        """Tensor memory without the technique over tensor memory with all of them."""
        return factor(self.left_out, self.end)


def factor(base: CellSummary | None, head: CellSummary | None) -> float | None:
    """Return the tensor memory of ``base`` over that of ``head``; None where they cannot be compared."""
    if base is None or head is None or MEMORY not in base.readings or MEMORY not in head.readings:
        return None
    one, other = base.readings[MEMORY], head.readings[MEMORY]
    if why_not_comparable(one, other) is not None or not one.value or not other.value:
        return None
    return one.value / other.value


def ablation_steps(cells: Sequence[CellSummary], chain: AblationChain, workload: str) -> list[AblationStep]:
    """Return the techniques in the order in which they are added."""
    found, before, end = [], own_cell(cells, chain.start, workload), own_cell(cells, chain.end, workload)
    for name, technique in chain.techniques.items():
        added = own_cell(cells, chain.arm_with(name), workload)
        left_out = own_cell(cells, chain.arm_without(name), workload)
        found.append(AblationStep(name, technique.same, before, added, end, left_out))
        before = added
    return found


def split_sentence(steps: Sequence[AblationStep]) -> str:
    """Return how much of the saving computes the same function, and how much is judged by accuracy alone."""
    parts = []
    for same in SAME_WORDS:
        own = [step for step in steps if step.same == same]
        savings = [step.saving for step in own]
        if own and all(savings):
            names = plain(", ".join(step.name for step in own))
            parts.append(f"{format_factor(prod(x for x in savings if x))} {SAME_WORDS[same]} ({names})")
    return f"Of this factor {' and '.join(parts)}." if parts else ""


def _group_sentences(steps: Sequence[AblationStep]) -> list[str]:
    """Return what neighbouring techniques that compute the same function save and cost together."""
    sentences = []
    for same, group in groupby(steps, key=lambda step: step.same):
        run = list(group)
        saved = factor(run[0].before, run[-1].added)
        if same != "function" or len(run) < 2 or saved is None:
            continue
        time = _time(run[0].before, run[-1].added)
        cost = f" at {time.text} the step time" if time.sort is not None else ""
        cost += f" ({time.note})" if cost and time.note else ""
        names = plain(", ".join(step.name for step in run))
        sentences.append(f"Together, {names} save {format_factor(saved)}{cost}, and compute the same function.")
    return sentences


@dataclass(frozen=True)
class Waterfall:
    """The two charts of the techniques; they have the same rows, first the start and then one per technique."""

    falls: BarChart
    """Tensor memory from that before a technique to that with it."""
    worths: BarChart
    """Tensor memory without a technique over that with all."""
    alt: str


def waterfall(steps: Sequence[AblationStep], chain: AblationChain) -> Waterfall | None:
    """Lay out the techniques on logarithmic axes, where equal lengths are equal factors.

    Returns:
        None where the memory of the start, or every saving, is unknown.
    """
    start = steps[0].before.value(MEMORY) if steps and steps[0].before else None
    if not start or all(step.saving is None for step in steps):
        return None
    saved = "; ".join(f"{plain(step.name, 40)} {_saving_text(step.saving)}" for step in steps)
    alt = plain(f"Waterfall of peak tensor memory from {format_bytes(start)}. Saved by each technique: {saved}.", 600)
    return Waterfall(_falls(steps, chain.start, start), _worths(steps), alt)


def _falls(steps: Sequence[AblationStep], name: str, start: float) -> BarChart:
    memories = [step.added.value(MEMORY) or None if step.added else None for step in steps]
    known = [start, *(memory for memory in memories if memory)]
    scale = Scale(min(known) / 1.5, max(known), is_logarithmic=True)
    first = Bar(0, scale.position(start), START_COLOUR)
    rows = [BarRow(plain(name, 36), (first,), format_bytes(start), first.end)]
    before = scale.position(start)
    for step, memory in zip(steps, memories, strict=True):
        if memory is None:
            rows.append(BarRow(plain(step.name, 36), (), "not measured", before))
            continue
        place = scale.position(memory)
        bar = Bar(min(before, place), max(before, place), SAME_COLOURS[step.same])
        text = f"{format_bytes(memory)}  {_saving_text(step.saving)}"
        rows.append(BarRow(plain(step.name, 36), (bar,), text, bar.end, link_position=before))
        before = place
    return BarChart(
        title="added one by one (logarithmic axis)",
        rows=tuple(rows),
        ticks=scale.ticks(doublings(scale.low, scale.high)),
        room=0.45,
        legend=tuple(LegendEntry(SAME_COLOURS[same], words) for same, words in SAME_WORDS.items()),
    )


def _worths(steps: Sequence[AblationStep]) -> BarChart:
    logarithms = [log2(step.worth) if step.worth else None for step in steps]
    known = [value for value in logarithms if value is not None]
    scale = Scale(min(0.0, *known) if known else 0.0, max(1.0, *map(abs, known)) if known else 1.0)
    ground = scale.position(0.0)
    rows = [BarRow("", (), "", ground)]
    for step, value in zip(steps, logarithms, strict=True):
        place = scale.position(value or 0.0)
        bars = () if not value else (Bar(min(ground, place), max(ground, place), SAME_COLOURS[step.same]),)
        rows.append(BarRow("", bars, _worth_text(step.worth), max(ground, place)))
    marks = range(int(scale.low), int(scale.high) + 1, 1 if scale.high < 4 else 2)
    return BarChart(
        title="left out one by one",
        rows=tuple(rows),
        ticks=tuple(Tick(f"{2.0**mark:g}×", scale.position(mark)) for mark in marks),
        room=0.7,
    )


def _saving_text(value: float | None) -> str:
    return "not measured" if value is None else "=" if value == 1 else f"÷ {format_factor(value)[:-1]}"


def _worth_text(value: float | None) -> str:
    return "not measured" if value is None else "=" if value == 1 else format_factor(value)


def waterfall_section(
    cells: Sequence[CellSummary], chain: AblationChain, workload: str, accuracy: AccuracySource | None
) -> Section:
    """Return tables with one row per technique: added one by one, left out one by one, and further arms beside."""
    steps = ablation_steps(cells, chain, workload)
    text = (
        f"From {plain(chain.start, 40)} to {plain(chain.end, 40)}. What a technique saves depends on the techniques "
        "before it. One that saves nothing where it is added can save much when it is the only one left out, and the "
        "other way round."
    )
    judged = (
        f"Each technique either {SAME_WORDS['function']} (equal outputs and gradients) or {SAME_WORDS['accuracy']}. "
        "The bars are logarithmic: equal lengths are equal factors."
    )
    trained = _Trained(cells, accuracy)
    further = _further_arms(cells, chain, workload, trained)
    chart = waterfall(steps, chain)
    tables = [_added(steps, chain, trained, chart), _left_out(steps, chain, trained, chart)]
    tables += [further] if further.rows else []
    paragraphs = (text, judged, *_group_sentences(steps))
    return Section("waterfall", "What each technique buys", paragraphs, tuple(map(without_empty_columns, tables)))


class _Trained(NamedTuple):
    """Finds the accuracy of an arm."""

    cells: Sequence[CellSummary]
    source: AccuracySource | None

    def cell(self, arm: str) -> Cell:
        """Return the accuracy of an arm's training."""
        if self.source is None:
            return Cell("–")
        return _value(own_cell(self.cells, arm, self.source.workload), self.source.metric)


def _bar(chart: BarChart | None, place: int) -> Bar | None:
    return chart.rows[place].bars[0] if chart and chart.rows[place].bars else None


def _added(steps: Sequence[AblationStep], chain: AblationChain, trained: _Trained, chart: Waterfall | None) -> Table:
    start, falls = steps[0].before, chart.falls if chart else None
    first = (
        Cell(plain(start.entry.arm, 40) if start else "–"),
        Cell("–"),
        replace(_value(start, MEMORY), bar=_bar(falls, 0)),
        Cell("–"),
        _value(start, "peak_over_floor"),
        _value(start, "step_time_s"),
        trained.cell(chain.start),
    )
    rows = [
        Row(
            (
                Cell(plain(step.name, 60)),
                Cell(_JUDGED_BY[step.same], swatch=SAME_COLOURS[step.same]),
                replace(_value(step.added, MEMORY), bar=_bar(falls, place)),
                _factor(step.saving, is_saving=True),
                _value(step.added, "peak_over_floor"),
                _time(step.before, step.added),
                trained.cell(chain.arm_with(step.name)),
            )
        )
        for place, step in enumerate(steps, start=1)
    ]
    numbers = ("Tensor memory", "Saves", "Peak/floor", "Step time", "Accuracy")
    columns = (Column("Technique"), Column("Judged by"), *(Column(title, numeric=True) for title in numbers))
    return Table("Added one by one", columns, (Row(first, strong=True), *rows))


def _left_out(steps: Sequence[AblationStep], chain: AblationChain, trained: _Trained, chart: Waterfall | None) -> Table:
    worths = chart.worths if chart else None
    rows = tuple(
        _against(step.name, step.end, step.left_out, trained.cell(chain.arm_without(step.name)), _bar(worths, place))
        for place, step in enumerate(steps, start=1)
    )
    return Table("Left out one by one", _columns_against("All but", steps[0].end), rows)


def _further_arms(cells: Sequence[CellSummary], chain: AblationChain, workload: str, trained: _Trained) -> Table:
    """Compare the grid's further arms with the end of the chain."""
    further = dict.fromkeys(cell.entry.arm for cell in cells if cell.entry.arm not in chain.arms)
    end = own_cell(cells, chain.end, workload)
    rows = tuple(_against(arm, end, own_cell(cells, arm, workload), trained.cell(arm)) for arm in further)
    return Table(f"Further arms beside {plain(chain.end, 40)}", _columns_against("Arm", end), rows)


def _against(
    name: str, end: CellSummary | None, own: CellSummary | None, accuracy: Cell, bar: Bar | None = None
) -> Row:
    needed = replace(_factor(factor(own, end)), bar=bar)
    return Row((Cell(plain(name, 60)), _value(own, MEMORY), needed, _time(end, own), accuracy))


def _columns_against(first: str, end: CellSummary | None) -> tuple[Column, ...]:
    whole = plain(end.entry.arm, 24) if end else "all"
    numbers = ("Tensor memory", f"× {whole}'s memory", f"× {whole}'s step time", "Accuracy")
    return (Column(first), *(Column(title, numeric=True) for title in numbers))


def _value(cell: CellSummary | None, metric: str) -> Cell:
    if cell is None:
        return unknown("the grid has no such cell, or --arm left it out")
    reading = cell.readings.get(metric)
    if reading is None:
        return unknown(plain(cell.reasons[0]) if cell.reasons else "not measured by this workload, or not yet")
    if reading.value is None:
        return unknown("; ".join(reading.reasons))
    return Cell(format_value(reading.value, reading.unit), sort=reading.value)


def _factor(value: float | None, *, is_saving: bool = False) -> Cell:
    """Return the cell of a factor. A larger one is good for what is saved, a smaller one for what is needed."""
    if value is None:
        return unknown("one of the two was not measured")
    is_good = value > 1 if is_saving else value < 1
    return Cell("equal" if value == 1 else format_factor(value), sort=value, tone="good" if is_good else "")


def _time(base: CellSummary | None, head: CellSummary | None) -> Cell:
    """Return ``head``'s step time over ``base``'s, with its range and verdict as a footnote."""
    if base is None or head is None or "step_time_s" not in base.readings or "step_time_s" not in head.readings:
        return unknown("not measured")
    ratio = pair(base.readings["step_time_s"], head.readings["step_time_s"])
    if ratio is None:
        return unknown("no repeat that both finished")
    if base.is_disturbed or head.is_disturbed:
        return Cell("disturbed", note="no ratio, because one of its runs suffered interference", tone="warn")
    return Cell(f"{ratio.ratio:.2f}×", note=describe(ratio) if ratio.n > 1 else None, sort=ratio.ratio)

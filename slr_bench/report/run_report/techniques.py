"""What each technique between two arms buys and costs: added one by one, and left out one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import log, prod
from typing import Final

from slr_bench.compare.cells import CellSummary, own_cell, pair, why_not_comparable
from slr_bench.grid.techniques import AblationChain, Same
from slr_bench.report.formats.table import Bar, Cell, Column, Row, Section, Table, unknown, without_empty_columns
from slr_bench.report.text.words import describe, format_factor, format_value, plain

START_COLOUR: Final = "arm-0"
SAME_COLOURS: Final[dict[Same, str]] = {"function": "arm-1", "accuracy": "arm-2"}
SAME_WORDS: dict[Same, str] = {
    "function": "computes the same function",
    "accuracy": "is judged by accuracy",
}
_JUDGED_BY: Final[dict[Same, str]] = {"function": "equal outputs", "accuracy": "accuracy"}


@dataclass(frozen=True)
class Rung:
    """One technique: its arm, the arm before it, and the arm of all the others."""

    name: str
    same: Same
    before: CellSummary | None
    added: CellSummary | None
    end: CellSummary | None
    left_out: CellSummary | None

    @property
    def saves(self) -> float | None:
        """Tensor memory before it over tensor memory with it; None where one was not measured."""
        return factor(self.before, self.added)

    @property
    def is_worth(self) -> float | None:
        """Tensor memory without it over tensor memory with all."""
        return factor(self.left_out, self.end)


def factor(base: CellSummary | None, head: CellSummary | None, metric: str = "peak_tensor_bytes") -> float | None:
    """``base / head`` of a metric that both have, by meters that compare."""
    if base is None or head is None or metric not in base.readings or metric not in head.readings:
        return None
    one, other = base.readings[metric], head.readings[metric]
    if why_not_comparable(one, other) is not None or not one.value or not other.value:
        return None
    return one.value / other.value


def rungs(cells: Sequence[CellSummary], ladder: AblationChain, workload: str) -> list[Rung]:
    """The techniques in the order in which they are added."""
    found, before, end = [], own_cell(cells, ladder.start, workload), own_cell(cells, ladder.end, workload)
    for name, technique in ladder.techniques.items():
        added = own_cell(cells, ladder.arm_with(name), workload)
        left_out = own_cell(cells, ladder.arm_without(name), workload)
        found.append(Rung(name, technique.same, before, added, end, left_out))
        before = added
    return found


def split_sentence(found: Sequence[Rung]) -> str:
    """How much of the saving computes the same function, and how much is judged by accuracy alone."""
    parts = []
    for same in ("function", "accuracy"):
        own = [rung for rung in found if rung.same == same]
        saves = [rung.saves for rung in own]
        if own and all(saves):
            names = plain(", ".join(rung.name for rung in own))
            parts.append(f"{format_factor(prod(x for x in saves if x))} {SAME_WORDS[same]} ({names})")
    return f"Of this factor {' and '.join(parts)}." if parts else ""


def _together(found: Sequence[Rung]) -> list[str]:
    """Of techniques in a row that compute the same function: what all of them save and cost."""
    sentences = []
    for same, group in groupby(found, key=lambda rung: rung.same):
        run = list(group)
        saved = factor(run[0].before, run[-1].added)
        if same != "function" or len(run) < 2 or saved is None:
            continue
        time = _time(run[0].before, run[-1].added)
        cost = f" at {time.text} the step time" if time.sort is not None else ""
        cost += f" ({time.note})" if cost and time.note else ""
        names = plain(", ".join(rung.name for rung in run))
        sentences.append(f"Together, {names} save {format_factor(saved)}{cost}, and compute the same function.")
    return sentences


def waterfall_section(
    cells: Sequence[CellSummary], ladder: AblationChain, workload: str, accuracy: str = "train_epochs"
) -> Section:
    """Two tables of a row a technique: added one by one, left out one by one."""
    found = rungs(cells, ladder, workload)
    trained = rungs(cells, ladder, accuracy)
    text = (
        f"From {plain(ladder.start, 40)} to {plain(ladder.end, 40)}. What a technique saves depends on those before: "
        "one that saves nothing where it is added can be worth much where it is left out, and the other way round."
    )
    beside = _beside(cells, ladder, workload, accuracy)
    tables = (_added(found, trained), _left_out(found, trained), *([beside] if beside.rows else []))
    judged = (
        f"Each {SAME_WORDS['function']} (equal outputs and gradients) or {SAME_WORDS['accuracy']}. The bars of page "
        "and picture are logarithmic: equal lengths are equal factors."
    )
    paragraphs = (text, judged, *_together(found))
    return Section("waterfall", "What each technique buys", paragraphs, tuple(map(without_empty_columns, tables)))


def _added(found: Sequence[Rung], trained: Sequence[Rung]) -> Table:
    start, start_trained = found[0].before, trained[0].before
    bars = _falls(found)
    first = (
        Cell(plain(start.entry.arm, 40) if start else "–"),
        Cell("–"),
        replace(_value(start, "peak_tensor_bytes"), bar=bars[0]),
        Cell("–"),
        _value(start, "peak_over_floor"),
        _value(start, "step_time_s"),
        _value(start_trained, "accuracy_top1"),
    )
    rows = [
        Row(
            (
                Cell(plain(rung.name, 60)),
                Cell(_JUDGED_BY[rung.same], swatch=SAME_COLOURS[rung.same]),
                replace(_value(rung.added, "peak_tensor_bytes"), bar=bar),
                _factor(rung.saves, is_saving=True),
                _value(rung.added, "peak_over_floor"),
                _time(rung.before, rung.added),
                _value(own.added, "accuracy_top1"),
            )
        )
        for rung, own, bar in zip(found, trained, bars[1:], strict=True)
    ]
    columns = (
        Column("Technique"),
        Column("Judged by"),
        Column("Tensor memory", numeric=True),
        Column("Saves", numeric=True),
        Column("Peak/floor", numeric=True),
        Column("Step time", numeric=True),
        Column("Accuracy", numeric=True),
    )
    return Table("Added one by one", columns, (Row(first, strong=True), *rows))


def _falls(found: Sequence[Rung]) -> list[Bar | None]:
    """The start's memory, then from each technique's to that before it: on a logarithmic axis, so that equal lengths
    are equal factors.
    """
    start = _memory(found[0].before)
    values = [value for rung in found if (value := _memory(rung.added))]
    if start is None or not values:
        return [None] * (len(found) + 1)
    low, high = log(min(start, *values) / 1.5), log(max(start, *values))

    def place(value: float) -> float:
        return (log(value) - low) / (high - low)

    bars: list[Bar | None] = [Bar(0, place(start), START_COLOUR)]
    for rung in found:
        after = _memory(rung.added)
        if after is None:
            bars.append(None)
            continue
        one, other = sorted((place(start), place(after)))
        bars.append(Bar(one, other, SAME_COLOURS[rung.same]))
        start = after
    return bars


def _memory(cell: CellSummary | None) -> float | None:
    """Above 0, or None."""
    return (cell.value("peak_tensor_bytes") or None) if cell else None


def _left_out(found: Sequence[Rung], trained: Sequence[Rung]) -> Table:
    pairs = zip(found, trained, strict=True)
    widest = max((abs(log(rung.is_worth)) for rung in found if rung.is_worth), default=0.0) or 1.0
    rows = tuple(
        _against(rung.name, rung.end, rung.left_out, own.left_out, _worth_bar(rung, widest)) for rung, own in pairs
    )
    return Table("Left out one by one", _columns_against("All but", found[0].end), rows)


def _worth_bar(rung: Rung, widest: float) -> Bar | None:
    if not rung.is_worth or rung.is_worth <= 1:
        return None
    return Bar(0, log(rung.is_worth) / widest, SAME_COLOURS[rung.same])


def _beside(cells: Sequence[CellSummary], ladder: AblationChain, workload: str, accuracy: str) -> Table:
    """The grid's further arms against the end of the ladder."""
    further = dict.fromkeys(cell.entry.arm for cell in cells if cell.entry.arm not in ladder.arms)
    end = own_cell(cells, ladder.end, workload)
    rows = tuple(_against(arm, end, own_cell(cells, arm, workload), own_cell(cells, arm, accuracy)) for arm in further)
    return Table(f"Further arms beside {plain(ladder.end, 40)}", _columns_against("Arm", end), rows)


def _against(
    name: str, end: CellSummary | None, own: CellSummary | None, trained: CellSummary | None, bar: Bar | None = None
) -> Row:
    return Row(
        (
            Cell(plain(name, 60)),
            _value(own, "peak_tensor_bytes"),
            replace(_factor(factor(own, end)), bar=bar),
            _time(end, own),
            _value(trained, "accuracy_top1"),
        )
    )


def _columns_against(first: str, end: CellSummary | None) -> tuple[Column, ...]:
    whole = plain(end.entry.arm, 24) if end else "all"
    numbers = ("Tensor memory", f"× {whole}'s memory", f"× {whole}'s step time", "Accuracy")
    return (Column(first), *(Column(title, numeric=True) for title in numbers))


def _value(cell: CellSummary | None, metric: str) -> Cell:
    if cell is None:
        return unknown("the grid has no such cell, or --arm left it out")
    reading = cell.readings.get(metric)
    if reading is None:
        return unknown(plain(cell.reasons[0]) if cell.reasons else "not measured by this workload or not yet")
    if reading.value is None:
        return unknown("; ".join(reading.reasons))
    return Cell(format_value(reading.value, reading.unit), sort=reading.value)


def _factor(value: float | None, *, is_saving: bool = False) -> Cell:
    """``is_saving``: of what was saved more is good, of what is needed less."""
    if value is None:
        return unknown("one of the two was not measured")
    is_good = value > 1 if is_saving else value < 1
    return Cell("equal" if value == 1 else format_factor(value), sort=value, tone="good" if is_good else "")


def _time(base: CellSummary | None, head: CellSummary | None) -> Cell:
    """``head``'s step time over ``base``'s, with what it is worth as a note."""
    if base is None or head is None or "step_time_s" not in base.readings or "step_time_s" not in head.readings:
        return unknown("not measured")
    ratio = pair(base.readings["step_time_s"], head.readings["step_time_s"])
    if ratio is None:
        return unknown("no repeat that both finished")
    if base.is_disturbed or head.is_disturbed:
        return Cell("disturbed", note="a run behind it was disturbed: no ratio", tone="warn")
    return Cell(f"{ratio.ratio:.2f}×", note=describe(ratio) if ratio.n > 1 else None, sort=ratio.ratio)

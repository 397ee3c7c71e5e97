"""The headline: memory, time and accuracy of each arm's own setting, and how they differ from the first arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from slr_bench.compare.cells import CellSummary, Reading, own_cell, pair, why_not_comparable
from slr_bench.compare.comparability import batch_change
from slr_bench.compare.judgement import SAME, TOO_FEW
from slr_bench.compare.statistics import MIN_PROCESSES, VERDICT_ALPHA, Ratio, signed_rank_p
from slr_bench.record import Outcome
from slr_bench.report.formats.table import Card, CardLine, Cell, Column, Row, Table, Tone, unknown
from slr_bench.report.text.wording import OUTCOME_WORDS, describe, format_factor, is_fake_source, spread, uncapitalized
from slr_bench.units import format_value, plain

Mark = Literal["", "~", "n too small"]
NO_OWN: Final = "which cells are an arm's own setting is not known; all cells are listed below"
"""Why there are no headline metrics: the manifest is lost, or the grid lists no arm's own setting."""
_CAPTION: Final = "Each arm's own setting"


@dataclass(frozen=True)
class Change:
    """The difference between a reading and its reference."""

    text: str = ""
    """``12.4× less``, ``1.38× as long``, ``+2.5 points``; empty where the two share no repeat."""
    basis: str = ""
    """The basis of the change: processes, range or interval, verdict."""
    tone: Tone = ""
    mark: Mark = ""
    """``~``: not significant. ``n too small``: too few pairs for a verdict."""

    @property
    def marked(self) -> str:
        """The text with its mark: ``~ 1.01× as long``, ``1.38× as long, n too small``."""
        if not self.text or not self.mark:
            return self.text
        return f"{SAME} {self.text}" if self.mark == SAME else f"{self.text}, {self.mark}"


NO_CHANGE: Final = Change()


class HeadlineColumn(NamedTuple):
    """A column of the headline: one metric of one workload."""

    title: str
    workload: str
    metric: str


@dataclass(frozen=True)
class HeadlineValue:
    """One arm's value of a headline metric, and its change against the first arm."""

    arm: str
    reading: Reading | None
    missing: str | None
    """Why there is no value."""
    change: Change = NO_CHANGE
    is_disturbed: bool = False
    """True if a run suffered interference. Its time is then shown but not compared."""
    batch_change: str | None = None
    """How a training changed its batches on the way. Its accuracy is then shown but not compared."""

    @property
    def value(self) -> float | None:
        """The value in the unit of the reading; None if there is none."""
        return self.reading.value if self.reading else None

    @property
    def text(self) -> str:
        """The value with its unit."""
        return format_value(self.value, self.reading.unit if self.reading else "1")


@dataclass(frozen=True)
class Headline:
    """The headline metrics and their values: one column per metric, one value per arm."""

    arms: tuple[str, ...]
    metrics: tuple[HeadlineColumn, ...]
    columns: tuple[tuple[HeadlineValue, ...], ...]

    @property
    def pairs(self) -> list[tuple[HeadlineColumn, tuple[HeadlineValue, ...]]]:
        """Each metric with the values of the arms."""
        return list(zip(self.metrics, self.columns, strict=True))

    @property
    def leading(self) -> list[HeadlineColumn]:
        """The first metric of memory, of time and of accuracy that has a value."""
        first: dict[str, HeadlineColumn] = {}
        for metric, values in self.pairs:
            units = [value.reading.unit for value in values if value.reading and value.value is not None]
            if units:
                first.setdefault(units[0], metric)
        return list(first.values())


def read_headline(cells: Sequence[CellSummary], arms: Sequence[str]) -> Headline:
    """Return the headline metrics of every workload of the run, with their values for the given arms."""
    present = {cell.entry.workload: cell.description for cell in cells if cell.entry.is_own}
    metrics = tuple(
        HeadlineColumn(item.title, workload, item.metric)
        for workload, description in sorted(present.items(), key=lambda entry: entry[1].report_order)
        for item in description.headline_of(workload)
        if not item.optional or _has_value(cells, workload, item.metric)
    )
    return Headline(tuple(arms), metrics, tuple(_values(cells, arms, metric) for metric in metrics))


def _has_value(cells: Sequence[CellSummary], workload: str, metric: str) -> bool:
    own = [cell for cell in cells if cell.entry.is_own and cell.entry.workload == workload]
    return any(cell.value(metric) is not None for cell in own)


def _values(cells: Sequence[CellSummary], arms: Sequence[str], metric: HeadlineColumn) -> tuple[HeadlineValue, ...]:
    base, *heads = (_value(cells, arm, metric) for arm in arms)
    return (base, *(_against(base, head) for head in heads))


def _value(cells: Sequence[CellSummary], arm: str, metric: HeadlineColumn) -> HeadlineValue:
    cell = own_cell(cells, arm, metric.workload)
    if cell is None:
        return HeadlineValue(arm, None, plain(f"the grid has no {metric.workload} cell of this arm"))
    reading = cell.readings.get(metric.metric)
    if reading is not None:
        missing = plain("; ".join(reading.reasons)) if reading.value is None else None
        changed = batch_change(cell, metric.metric)
        return HeadlineValue(arm, reading, missing, is_disturbed=cell.is_disturbed, batch_change=changed)
    if cell.reasons:
        outcome = next(record.outcome for record in cell.records if record.outcome is not Outcome.OK)
        return HeadlineValue(arm, None, plain(f"{OUTCOME_WORDS[outcome]}: {cell.reasons[0]}"))
    return HeadlineValue(arm, None, _why_absent(cell))


def _why_absent(cell: CellSummary) -> str:
    if cell.unreadable and not cell.finished:
        return plain(f"its record cannot be read: {cell.unreadable[0]}")
    if not cell.records:
        return "no run has finished yet"
    sources = {source for reading in cell.readings.values() for source in reading.sources}
    if any(map(is_fake_source, sources)):
        return "traced on fake tensors: bytes are counted, but nothing is computed"
    return "not measured by this workload"


def _against(base: HeadlineValue, head: HeadlineValue) -> HeadlineValue:
    if base.reading is None or head.reading is None or base.value is None or head.value is None:
        return head
    difference = change(
        base.reading,
        head.reading,
        is_disturbed=base.is_disturbed or head.is_disturbed,
        other_batches=base.batch_change or head.batch_change,
    )
    return replace(head, change=difference)


def change(base: Reading, head: Reading, *, is_disturbed: bool = False, other_batches: str | None = None) -> Change:
    """Compare two readings that have a value.

    Times of runs that suffered interference are not compared, nor are accuracies of trainings whose batches changed
    (``other_batches``). Units other than bytes, seconds and shares have no word for more or less.
    """
    problem = why_not_comparable(base, head) or other_batches
    if problem:
        return Change("not comparable", plain(problem), "warn")
    if head.unit == "ratio":
        return _points(base, head)
    ratio = pair(base, head)
    if ratio is None:
        return Change(basis="no repeat that both arms finished")
    if head.unit == "bytes":
        return _bytes(base, head, ratio)
    if is_disturbed:
        return Change("disturbed", f"no ratio, because runs suffered interference; {describe(ratio)}", "warn")
    tones: dict[str, Tone] = {"faster": "good", "slower": "bad"}
    return Change(f"{ratio.ratio:.2f}× as long", describe(ratio), tones.get(ratio.verdict, ""), _mark(ratio))


def _points(base: Reading, head: Reading) -> Change:
    """Return a difference of shares. It is shown always, and has a verdict from 8 pairs of trainings."""
    assert base.value is not None
    assert head.value is not None
    text = f"{100 * (head.value - base.value):+.1f} points"
    both = sorted(base.by_repeat.keys() & head.by_repeat.keys())
    if len(both) < MIN_PROCESSES:
        n = min(len(base.by_repeat), len(head.by_repeat))
        one, many = "one training per arm: no verdict", f"{n} trainings per arm: no verdict below {MIN_PROCESSES}"
        return Change(text, one if n == 1 else many, mark=TOO_FEW)
    differences = [head.by_repeat[repeat] - base.by_repeat[repeat] for repeat in both]
    p = signed_rank_p(differences)
    basis = f"{len(both)} pairs of trainings, p = {p:.2g} (signed-rank test)"
    if p > VERDICT_ALPHA:
        return Change(text, basis, mark=SAME)
    return Change(text, basis, "good" if head.value > base.value else "bad")


def _bytes(base: Reading, head: Reading, ratio: Ratio) -> Change:
    assert base.summary is not None
    assert head.summary is not None
    less = base.summary.median / head.summary.median
    text = f"{format_factor(less)} less" if less > 1 else f"{format_factor(1 / less)} more" if less < 1 else "equal"
    if {base.summary.kind, head.summary.kind} == {"exact"}:
        n = min(base.summary.n, head.summary.n)
        basis = f"equal to the byte in all {n} processes" if n > 1 else "counted in one process"
        return Change(text, basis, "good" if less > 1 else "bad" if less < 1 else "")
    basis = f"medians; {spread(base.summary, 'bytes')} against {spread(head.summary, 'bytes')}"
    return Change(text, basis, mark=_mark(ratio))


def _mark(ratio: Ratio) -> Mark:
    marks: dict[str, Mark] = {"same": SAME, "n too small": TOO_FEW}
    return marks.get(ratio.verdict, "")


def headline_table(headline: Headline) -> Table:
    """Return one row per arm and one column per metric; without metrics, the reason."""
    if not headline.metrics:
        rows = tuple(Row((Cell(plain(arm, 60)), unknown(NO_OWN))) for arm in headline.arms)
        return Table(_CAPTION, (Column("Arm"), Column("Figures")), rows)
    rows = tuple(
        Row((Cell(plain(arm, 60)), *(_headline_cell(values[place]) for values in headline.columns)))
        for place, arm in enumerate(headline.arms)
    )
    columns = (Column("Arm"), *(Column(metric.title, numeric=True) for metric in headline.metrics))
    return Table(_CAPTION, columns, rows, is_by_arm=True)


def _headline_cell(value: HeadlineValue) -> Cell:
    if value.value is None:
        return unknown(value.missing or "not read")
    difference = value.change
    note = difference.basis or (plain(value.batch_change) if value.batch_change else None)
    return Cell(value.text, note, value.value, difference.tone, detail=difference.marked)


def cards(headline: Headline) -> tuple[Card, ...]:
    """Return one card per metric that has a value. It shows the second arm's change large."""
    leading, found = headline.leading, list[Card]()
    for metric, values in headline.pairs:
        largest = max((value.value for value in values if value.value is not None), default=None)
        if largest is None:
            continue
        head = values[min(1, len(values) - 1)]
        sources = [source for value in values if value.reading for source in value.reading.sources]
        found.append(
            Card(
                title=metric.title,
                change=head.change.text or head.text,
                tone=head.change.tone,
                basis=head.change.basis or head.missing or "",
                lines=tuple(_card_line(value, largest) for value in values),
                mark=head.change.mark,
                chip="fake tensors" if any(map(is_fake_source, sources)) else "",
                is_lead=metric in leading,
            )
        )
    return tuple(found)


def _card_line(value: HeadlineValue, largest: float) -> CardLine:
    share = value.value / largest if value.value is not None and largest > 0 else None
    return CardLine(plain(value.arm, 40), value.text, value.change.marked, value.change.tone, share)


def lead(headline: Headline) -> str:
    """Return a sentence on what the second arm saves and costs against the first one, in the leading metrics."""
    if not headline.metrics:
        return f"No headline: {NO_OWN}."
    parts, leading = [], headline.leading
    for metric, (base, *heads) in headline.pairs:
        if metric not in leading or not heads or not heads[0].change.text or heads[0].change.tone == "warn":
            continue
        parts.append(f"{uncapitalized(metric.title)} {heads[0].change.marked} ({base.text} → {heads[0].text})")
    if not parts:
        return "The arms' own settings cannot be compared with what was measured."
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."

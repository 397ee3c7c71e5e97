"""The first thing read: memory, time and accuracy of the arms' own settings, as a table, cards and a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from slr_bench.report.formats.table import Card, CardLine, Cell, Column, Row, Table, unknown
from slr_bench.report.run_report.answers import Answer, Question
from slr_bench.report.text.setting import is_fake_source
from slr_bench.report.text.words import format_value, plain, uncapitalized

_CAPTION: Final = "Each arm's own setting"
NO_OWN: Final = "which cells are an arm's own setting is not known; all are below"
"""Why nothing is asked: without a manifest, or of a grid that lists no arm's own setting."""


def headline_table(asked: Sequence[Question], found: Sequence[Sequence[Answer]], arms: Sequence[str]) -> Table:
    """One row an arm, one column a question; where there is no question, why."""
    if not asked:
        lone = tuple(Row((Cell(plain(arm, 60)), unknown(NO_OWN))) for arm in arms)
        return Table(_CAPTION, (Column("Arm"), Column("Figures")), lone)
    rows = []
    for place, arm in enumerate(arms):
        cells = [Cell(plain(arm, 60))]
        cells += [_headline_cell(column[place]) for column in found]
        rows.append(Row(tuple(cells)))
    columns = (Column("Arm"), *(Column(question.title, numeric=True) for question in asked))
    return Table(_CAPTION, columns, tuple(rows), is_by_arm=True)


def _headline_cell(answer: Answer) -> Cell:
    if answer.reading is None or answer.reading.value is None:
        return unknown(answer.missing or "not read")
    text, change = format_value(answer.reading.value, answer.reading.unit), answer.change
    return Cell(text, change.basis or None, answer.reading.value, change.tone, detail=change.marked)


def cards(asked: Sequence[Question], found: Sequence[Sequence[Answer]]) -> tuple[Card, ...]:
    """One card a question that has any value; the change shown large is the second arm's."""
    made: list[Card] = []
    first = leading(asked, found)
    for question, column in zip(asked, found, strict=True):
        values = [answer.reading.value if answer.reading else None for answer in column]
        largest = max((value for value in values if value is not None), default=None)
        if largest is None:
            continue
        lines = tuple(_card_line(answer, largest) for answer in column)
        head = column[1] if len(column) > 1 else column[0]
        change = head.change
        text = change.text or lines[min(1, len(lines) - 1)].text
        basis = change.basis or (head.missing or "")
        chip = "fake tensors" if _is_fake(column) else ""
        made.append(Card(question.title, text, change.tone, basis, lines, change.mark, chip, question in first))
    return tuple(made)


def _is_fake(column: Sequence[Answer]) -> bool:
    return any(is_fake_source(source) for answer in column if answer.reading for source in answer.reading.sources)


def leading(asked: Sequence[Question], found: Sequence[Sequence[Answer]]) -> list[Question]:
    """The first question of memory, of time and of accuracy that has an answer."""
    first: dict[str, Question] = {}
    for question, column in zip(asked, found, strict=True):
        units = [answer.reading.unit for answer in column if answer.reading and answer.reading.value is not None]
        if units:
            first.setdefault(units[0], question)
    return list(first.values())


def _card_line(answer: Answer, largest: float) -> CardLine:
    value = answer.reading.value if answer.reading else None
    unit = answer.reading.unit if answer.reading else "1"
    share = value / largest if value is not None and largest > 0 else None
    text = format_value(value, unit)
    return CardLine(plain(answer.arm, 40), text, answer.change.marked, answer.change.tone, share)


def lead(asked: Sequence[Question], found: Sequence[Sequence[Answer]]) -> str:
    """What the second arm saves and costs against the first, as the report's title names them: the leading figures."""
    if not asked:
        return f"No headline: {NO_OWN}."
    parts = []
    first = leading(asked, found)
    for question, (base, *heads) in zip(asked, found, strict=True):
        if not heads or not heads[0].change.text or heads[0].change.tone == "warn" or base.reading is None:
            continue
        assert heads[0].reading is not None
        if question not in first:
            continue
        was = format_value(base.reading.value, base.reading.unit)
        after = format_value(heads[0].reading.value, heads[0].reading.unit)
        parts.append(f"{uncapitalized(question.title)} {heads[0].change.marked} ({was} → {after})")
    if not parts:
        return "No comparison of the arms' own settings can be made from what was measured."
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."

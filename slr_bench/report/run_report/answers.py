"""What the headline asks of each arm's own setting, and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slr_bench.compare.cells import CellSummary, Reading, own_cell
from slr_bench.record import Outcome
from slr_bench.report.run_report.changes import NO_CHANGE, Change, change
from slr_bench.report.text.setting import is_fake_source
from slr_bench.report.text.words import OUTCOME_WORDS, plain, uncapitalized


@dataclass(frozen=True)
class Question:
    """A column of the headline: one metric of one workload."""

    title: str
    workload: str
    metric: str
    optional: bool = False
    """Left out where no arm could read it (GPU memory on a machine without one)."""


@dataclass(frozen=True)
class Answer:
    """One arm's own value of a question, and its change against the reference arm."""

    arm: str
    reading: Reading | None
    missing: str | None
    """Why there is no value."""
    change: Change = NO_CHANGE
    is_disturbed: bool = False
    """Whether something else disturbed a run behind it: a time is then shown and not compared."""


def questions(cells: Sequence[CellSummary]) -> list[Question]:
    """Memory, time and accuracy of every workload in the run; those without a word of their own come last."""
    present = dict.fromkeys(cell.entry.workload for cell in cells if cell.entry.is_own)
    asked: list[Question] = []
    for workload in sorted(present, key=lambda name: (name != "train_step", name == "inference")):
        if workload == "train_epochs":
            asked.append(Question("Training time", workload, "training_time_s"))
            asked.append(Question("Accuracy", workload, "accuracy_top1"))
            continue
        names = [_title(name, workload) for name in ("Memory", "GPU memory allocated", "Step time")]
        asked.append(Question(names[0], workload, "peak_tensor_bytes"))
        asked.append(Question(names[1], workload, "peak_allocated_bytes", optional=True))
        asked.append(Question(names[2], workload, "step_time_s"))
    return [question for question in asked if not question.optional or _any_value(cells, question)]


def _title(figure: str, workload: str) -> str:
    """``Memory``, ``Inference memory``, ``Memory of tiny_video``: what is no word keeps its own spelling."""
    if workload == "train_step":
        return figure
    if workload.isalpha():
        return f"{plain(workload, 30).capitalize()} {uncapitalized(figure)}"
    return f"{figure} of {plain(workload, 30)}"


def _any_value(cells: Sequence[CellSummary], question: Question) -> bool:
    own = [cell for cell in cells if cell.entry.is_own and cell.entry.workload == question.workload]
    return any(cell.value(question.metric) is not None for cell in own)


def answers(cells: Sequence[CellSummary], arms: Sequence[str], question: Question) -> list[Answer]:
    """One answer an arm; the first arm is the reference."""
    found = [_answer(cells, arm, question) for arm in arms]
    return [found[0], *(_against(found[0], head) for head in found[1:])]


def _answer(cells: Sequence[CellSummary], arm: str, question: Question) -> Answer:
    cell = own_cell(cells, arm, question.workload)
    if cell is None:
        return Answer(arm, None, plain(f"the grid has no {question.workload} cell of this arm"))
    reading = cell.readings.get(question.metric)
    if reading is not None:
        missing = plain("; ".join(reading.reasons)) if reading.value is None else None
        return Answer(arm, reading, missing, is_disturbed=cell.is_disturbed)
    if cell.reasons:
        outcome = next(record.outcome for record in cell.records if record.outcome is not Outcome.OK)
        return Answer(arm, None, plain(f"{OUTCOME_WORDS[outcome]}: {cell.reasons[0]}"))
    return Answer(arm, None, _why_absent(cell))


def _why_absent(cell: CellSummary) -> str:
    if cell.unreadable and not cell.finished:
        return plain(f"its record cannot be read: {cell.unreadable[0]}")
    if not cell.records:
        return "no run has finished yet"
    sources = {source for reading in cell.readings.values() for source in reading.sources}
    if any(map(is_fake_source, sources)):
        return "fake tensors: bytes are traced, nothing is computed"
    return "not measured by this workload"


def _against(base: Answer, head: Answer) -> Answer:
    if base.reading is None or head.reading is None or base.reading.value is None or head.reading.value is None:
        return head
    found = change(base.reading, head.reading, is_disturbed=base.is_disturbed or head.is_disturbed)
    return Answer(head.arm, head.reading, None, found)

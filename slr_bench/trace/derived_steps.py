"""Steps derived from a traced one, because tracing takes the time: steady, with more micro-batches, interpolated.

**Steady.** The first step makes what outlives it (the optimizer's state); in later steps it is there from the start.
What a step keeps without a name (its last output) lives until the next step puts its own in the place, as in a plain
loop. A middle micro-batch differs from the last only in what comes after it. So a first step with two micro-batches has
all the information. That the result equals a full trace is tested on every network, optimizer and precision of the
byte-exact claim.

**Interpolated.** A smaller and a larger micro-batch run the same operators on the same storages. Then every size has a
part that grows with the micro-batch and a constant part, and one in between follows. That the step in between runs the
same operators is assumed, so the result is wrong for a workload that takes another path for some sizes between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple, TypeVar

from slr_bench.live_bytes import State
from slr_bench.trace.requests import OperatorNeed, Workspace
from slr_bench.trace.step_trace import (
    BEFORE,
    HELD,
    INPUT,
    LOAD_PHASE,
    SAVED,
    TEMPORARY,
    WEIGHT_CAST,
    Operator,
    StepTrace,
    Storage,
)

Item = TypeVar("Item")
_LEFT = (TEMPORARY, SAVED, INPUT, WEIGHT_CAST)
"""Categories of unnamed tensors that may outlive a step; the next step replaces them by its own."""


def name_state(step: StepTrace, state: State) -> None:
    """Set the category of tensors that the step made and the workload names (optimizer state), which stay."""
    numbers = {storage.key: number for number, storage in enumerate(step.storages) if storage.died is None}
    for category, tensors in state.items():
        for tensor in tensors:
            number = numbers.get(tensor.untyped_storage()._cdata)
            if number is not None and step.storages[number].category in _LEFT:
                step.storages[number].category = category


def kept_without_name(step: StepTrace) -> dict[int, Storage]:
    """Return the storages that a first step keeps and that have no name, by storage key."""
    return {
        storage.key: storage
        for storage in step.storages
        if storage.died is None and storage.born != BEFORE and storage.category in _LEFT
    }


def repeat_micro_batches(step: StepTrace, times: int) -> None:
    """Add ``times`` more micro-batches to a recorded step of two or more whose state has been named.

    They add the bytes that they touch, and the tensors that they keep until the step's end beside state and gradients:
    their losses.
    """
    starts = micro_batch_starts(step)
    if times <= 0 or len(starts) < 2:
        return
    end = last_micro_batch(step).stop
    left = [
        storage
        for storage in step.storages
        if starts[0] <= storage.born < starts[1] and storage.category in _LEFT and storage.lives_at(end - 1)
    ]
    step.storages.extend(replace(storage, born=starts[-1], key=-1) for _ in range(times) for storage in left)
    step.touched_bytes += times * sum(operator.touched_bytes for operator in step.operators[starts[-1] : end])


def last_micro_batch(step: StepTrace) -> range:
    """Return the positions of the last micro-batch's operators, in a step of two or more.

    It ends where a phase begins that the first micro-batch does not have, such as the optimizer.
    """
    starts = micro_batch_starts(step)
    phases = [operator.phase for operator in step.operators]
    first = set(phases[starts[0] : starts[1]])
    end = next((n for n in range(starts[-1], len(phases)) if phases[n] not in first), len(phases))
    return range(starts[-1], end)


def micro_batch_starts(step: StepTrace) -> list[int]:
    """Return the positions of the first operator of each micro-batch: those where loading begins."""
    phases = [operator.phase for operator in step.operators]
    return [
        position
        for position, phase in enumerate(phases)
        if phase == LOAD_PHASE and (not position or phases[position - 1] != LOAD_PHASE)
    ]


def make_steady(step: StepTrace) -> None:
    """Turn a first step into a steady one: tensors that outlive it were there before, and its peaks follow.

    Named state exists once. Other tensors that are left over (the losses) exist twice: those of the previous step live
    until they are replaced.
    """
    end = len(step.operators) - 1
    for storage in list(step.storages):
        if storage.died is None and storage.born != BEFORE:
            if storage.category in _LEFT:
                died = end if storage.replaced_at is None else storage.replaced_at
                step.storages.append(replace(storage, category=HELD, born=BEFORE, died=died))
            else:
                storage.born = BEFORE
    peak = sum(storage.size_bytes for storage in step.storages if storage.born == BEFORE)
    position, by_phase = BEFORE, Counter[str]()
    for number, (operator, live) in enumerate(zip(step.operators, live_bytes(step), strict=True)):
        by_phase[operator.phase] = max(by_phase[operator.phase], live)
        if live > peak:
            peak, position = live, number
    step.peak_bytes, step.peak_position = peak, position
    step.peak_by_phase = dict(by_phase)


def live_bytes(step: StepTrace) -> list[int]:
    """Return the bytes alive right after each operator."""
    changes: Counter[int] = Counter()
    for storage in step.storages:
        changes[max(0, storage.born)] += storage.size_bytes
        if storage.died is not None:
            changes[storage.died + 1] -= storage.size_bytes
    return list(accumulate(changes[number] for number in range(len(step.operators))))


class TracedStep(NamedTuple):
    """A recorded first step whose state has been named, with what its operators need."""

    samples: int
    """Samples per micro-batch."""
    step: StepTrace
    needs: Sequence[OperatorNeed]
    samples_per_step: int
    loader_bytes: int


Between = Callable[[int, int], int]


class _NotInterpolatableError(Exception):
    """The two steps differ in more than sizes, or a size between them is not a whole number."""


def interpolate(low: TracedStep, high: TracedStep, samples: int) -> TracedStep | None:
    """Return the step with ``samples`` per micro-batch, or None if it does not follow from the two traced ones."""

    def between(small: int, large: int) -> int:
        grown, rest = divmod((large - small) * (samples - low.samples), high.samples - low.samples)
        if rest:
            raise _NotInterpolatableError
        return small + grown

    try:
        return TracedStep(
            samples,
            _step(low.step, high.step, between),
            _needs(low.needs, high.needs, between),
            between(low.samples_per_step, high.samples_per_step),
            between(low.loader_bytes, high.loader_bytes),
        )
    except _NotInterpolatableError:
        return None


def _step(low: StepTrace, high: StepTrace, between: Between) -> StepTrace:
    _same(low.split_modules, high.split_modules)
    _same(low.flops_by_dtype.keys(), high.flops_by_dtype.keys())
    return StepTrace(
        storages=[_storage(small, large, between) for small, large in _pairs(low.storages, high.storages)],
        operators=[_operator(small, large, between) for small, large in _pairs(low.operators, high.operators)],
        split_modules=low.split_modules,
        flops=between(low.flops, high.flops),
        flops_by_dtype=Counter(
            {name: between(count, high.flops_by_dtype[name]) for name, count in low.flops_by_dtype.items()}
        ),
        touched_bytes=between(low.touched_bytes, high.touched_bytes),
    )


def _storage(low: Storage, high: Storage, between: Between) -> Storage:
    shape = tuple(between(small, large) for small, large in _pairs(low.shape, high.shape))
    result = replace(low, size_bytes=between(low.size_bytes, high.size_bytes), shape=shape, key=-1)
    _same(replace(high, size_bytes=result.size_bytes, shape=shape, key=-1), result)
    return result


def _operator(low: Operator, high: Operator, between: Between) -> Operator:
    result = low._replace(touched_bytes=between(low.touched_bytes, high.touched_bytes))
    _same(high._replace(touched_bytes=result.touched_bytes), result)
    return result


def _needs(low: Sequence[OperatorNeed], high: Sequence[OperatorNeed], between: Between) -> list[OperatorNeed]:
    needs = []
    for low_need, high_need in _pairs(low, high):
        small, large = low_need.workspace, high_need.workspace
        workspace = Workspace(
            between(small.expected_bytes, large.expected_bytes),
            between(small.most_bytes, large.most_bytes),
            small.is_modelled,
            between(small.copied_bytes, large.copied_bytes),
        )
        for few, many in zip(small, large, strict=True):  # that one sample is copied does not mean that several are
            _same(few > 0, many > 0)
        need = low_need._replace(workspace=workspace)
        _same(large.is_modelled, small.is_modelled)
        _same(high_need._replace(workspace=workspace), need)
        needs.append(need)
    return needs


def _pairs(low: Sequence[Item], high: Sequence[Item]) -> Iterator[tuple[Item, Item]]:
    _same(len(low), len(high))
    return zip(low, high, strict=True)


def _same(low: object, high: object) -> None:
    if low != high:
        raise _NotInterpolatableError

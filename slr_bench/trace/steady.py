"""A steady step, and one of many micro-batches, told from the first step of two: tracing is what takes the time.

The first step differs from every later one in that what outlives it (the optimizer's state) is made in it; later it is
there from the start. A middle micro-batch differs from the last only in what comes after it. So the first step, with
two micro-batches, holds all that there is to know; that it says the same as tracing them all is tested on every
network, optimizer and precision of the byte-exact claim.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import accumulate

from slr_bench.live_bytes import State
from slr_bench.trace.recording import BEFORE, HELD, INPUT, LOAD_PHASE, SAVED, TEMPORARY, WEIGHT_CAST, Story

_LEFT = (TEMPORARY, SAVED, INPUT, WEIGHT_CAST)
"""Categories of what has no name and outlives a step: the next one puts its own in its place."""


def name_state(story: Story, state: State) -> None:
    """Give what the step made and the workload names (optimizer state) its category: it stays from step to step."""
    numbers = {storage.key: number for number, storage in enumerate(story.storages) if storage.died is None}
    for category, tensors in state.items():
        for tensor in tensors:
            number = numbers.get(tensor.untyped_storage()._cdata)
            if number is not None and story.storages[number].category in _LEFT:
                story.storages[number].category = category


def repeat_micro_batches(story: Story, times: int) -> None:
    """Add what ``times`` more micro-batches would leave behind until the step's end, beside state and gradients: their
    losses. And what they would touch.

    The recorded step has two or more; its state has been named.
    """
    starts = micro_batch_starts(story)
    if times <= 0 or len(starts) < 2:
        return
    end = last_micro_batch(story).stop
    left = [
        storage
        for storage in story.storages
        if starts[0] <= storage.born < starts[1] and storage.category in _LEFT and storage.lives_at(end - 1)
    ]
    story.storages.extend(replace(storage, born=starts[-1], key=-1) for _ in range(times) for storage in left)
    story.touched_bytes += times * sum(operator.touched_bytes for operator in story.operators[starts[-1] : end])


def last_micro_batch(story: Story) -> range:
    """Positions of the operators of the last micro-batch, of two or more.

    It ends where something begins that the first one had not, such as the optimizer.
    """
    starts = micro_batch_starts(story)
    phases = [operator.phase for operator in story.operators]
    own = set(phases[starts[0] : starts[1]])
    end = next((place for place in range(starts[-1], len(phases)) if phases[place] not in own), len(phases))
    return range(starts[-1], end)


def micro_batch_starts(story: Story) -> list[int]:
    """Positions of the first operator of each micro-batch: where loading begins."""
    phases = [operator.phase for operator in story.operators]
    return [
        position
        for position, phase in enumerate(phases)
        if phase == LOAD_PHASE and (not position or phases[position - 1] != LOAD_PHASE)
    ]


def make_steady(story: Story) -> None:
    """What outlives the recorded step was there before it; the peaks follow from that.

    Named state is made once. Of anything else that is left over (the losses) there is a second, the last step's, until
    the step's end.
    """
    end = len(story.operators) - 1
    for storage in list(story.storages):
        if storage.died is None and storage.born != BEFORE:
            if storage.category in _LEFT:
                story.storages.append(replace(storage, category=HELD, born=BEFORE, died=end))
            else:
                storage.born = BEFORE
    peak, position, by_phase = _before(story), BEFORE, Counter[str]()
    for number, (operator, live) in enumerate(zip(story.operators, live_bytes(story), strict=True)):
        by_phase[operator.phase] = max(by_phase[operator.phase], live)
        if live > peak:
            peak, position = live, number
    story.peak_bytes, story.peak_position = peak, position
    story.peak_by_phase = dict(by_phase)


def live_bytes(story: Story) -> list[int]:
    """Bytes alive right after each operator."""
    changes: Counter[int] = Counter()
    for storage in story.storages:
        changes[max(0, storage.born)] += storage.size_bytes
        if storage.died is not None:
            changes[storage.died + 1] -= storage.size_bytes
    return list(accumulate(changes[number] for number in range(len(story.operators))))


def _before(story: Story) -> int:
    return sum(storage.size_bytes for storage in story.storages if storage.born == BEFORE)

"""Allocator requests of consecutive steps: memory for tensors, for operators while they run, and for libraries.

The first step makes the optimizer's state between gradients and activations, where it stays: what is reserved later
depends on it. So the list has the first step and a steady one, in order. No torch.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from slr_bench.trace.step_trace import BEFORE, StepTrace

COPY: Final = -1
"""Storage number of the copies that an operator makes of its inputs while it runs."""
STEADY_STEPS: Final = 1
"""More change nothing in what is reserved but by a page of an expandable segment (tried: 2 and 4)."""


class RequestKind(IntEnum):
    """Kind of a :class:`Request`, on which the meaning of its two numbers depends."""

    ALLOCATE = 0
    """``storage, bytes``"""
    FREE = 1
    """``storage, 0``"""
    TRANSIENT = 2
    """``expected bytes, most bytes`` that live within one operator."""
    LIBRARY = 3
    """``thread, 0``: a matrix product on thread 0 (forward) or 1 (backward), which may need a library's workspace."""
    STEADY = 4
    """``0, 0``: the last step begins."""
    UNMODELLED = 5
    """The same as TRANSIENT, for an operator without a rule."""


ALLOCATE, FREE, TRANSIENT, LIBRARY, STEADY, UNMODELLED = RequestKind


class Request(NamedTuple):
    """One request to an allocator. In JSON it is a list of its three numbers."""

    kind: int
    """A :class:`RequestKind`."""
    first: int
    second: int


Requests = Sequence[Request]


def requests_from_json(triples: Iterable[Sequence[int]]) -> list[Request]:
    """Return the requests that the child sent as lists of three numbers."""
    return list(map(Request._make, triples))


class Workspace(NamedTuple):
    """Bytes that live while one operator runs, beside its inputs and outputs."""

    expected_bytes: int
    most_bytes: int
    is_modelled: bool
    copied_bytes: int = 0
    """Further bytes, known exactly: copies of inputs whose memory layout the operator cannot read."""


class OperatorNeed(NamedTuple):
    """An operator that needs more than its tensors."""

    position: int
    name: str
    workspace: Workspace
    is_product: bool
    in_backward: bool


class UnmodelledOperator(NamedTuple):
    """An operator without a workspace rule: its number of calls, and the most that one call may need."""

    operator: str
    calls: int
    most_bytes: int


def unmodelled(needs: Sequence[OperatorNeed]) -> list[UnmodelledOperator]:
    """Return the operators without a rule, the largest need first."""
    calls: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for need in needs:
        if not need.workspace.is_modelled:
            calls[need.name] += 1
            most[need.name] = max(most[need.name], need.workspace.most_bytes)
    return [UnmodelledOperator(name, calls[name], size) for name, size in most.most_common()]


Lives = Sequence[tuple[int, int | None]]
"""The positions at which each storage is made and dies."""


def lives(step: StepTrace) -> Lives:
    """Return the lives of the step's storages."""
    return [(storage.born, storage.died) for storage in step.storages]


def requests(step: StepTrace, needs: Sequence[OperatorNeed], first: Lives, steady: Lives) -> list[Request]:
    """Return the requests of the first step and of a steady one (``trace.derived_steps``), in order.

    ``first`` and ``steady`` are the storages' lives in each. The first step made all that the steady one starts with.
    ``steady`` goes on with what the previous step left and this one replaces, in the order of ``first``.
    """
    needs_at: dict[int, list[Request]] = defaultdict(list)
    for need in needs:
        needs_at[need.position] += _need_requests(need)
    sizes = [storage.size_bytes for storage in step.storages]
    made_anew = {
        number
        for number, ((_, died), (born, _)) in enumerate(zip(first, steady, strict=False))
        if died is None and born != BEFORE
    }
    replaced: dict[int, list[int]] = defaultdict(list)
    for number, (_, died) in zip(sorted(made_anew), steady[len(first) :], strict=True):
        assert died is not None, "what is left over is replaced within the next step"
        if sizes[number]:
            replaced[died].append(number)
    result: list[Request] = []
    for turn in range(1 + STEADY_STEPS):
        if turn == STEADY_STEPS:
            result.append(Request(STEADY, 0, 0))
        births: dict[int, list[int]] = defaultdict(list)
        deaths: dict[int, list[int]] = defaultdict(list)
        for number, (born, died) in enumerate(steady[: len(first)] if turn else first):
            if sizes[number] and not (turn and born == BEFORE):
                births[born].append(number)
                if died is not None:
                    deaths[died].append(number)
        for position in range(BEFORE, len(step.operators)):
            for number in births.get(position, ()):
                result.append(Request(ALLOCATE, number + turn * len(first) * (number in made_anew), sizes[number]))
            result += needs_at.get(position, ())
            result += [Request(FREE, number, 0) for number in deaths.get(position, ())]
            if turn:  # tensors left by the step before go when those of this step take their place
                before = (turn - 1) * len(first)
                result += [Request(FREE, number + before, 0) for number in replaced.get(position, ())]
    return result


def _need_requests(need: OperatorNeed) -> Iterator[Request]:
    """Yield what one operator requests while it runs."""
    workspace = need.workspace
    if need.is_product:
        yield Request(LIBRARY, int(need.in_backward), 0)
    if workspace.copied_bytes:
        yield Request(ALLOCATE, COPY, workspace.copied_bytes)
    if workspace.most_bytes:
        kind = TRANSIENT if workspace.is_modelled else UNMODELLED
        yield Request(kind, workspace.expected_bytes, workspace.most_bytes)
    if workspace.copied_bytes:
        yield Request(FREE, COPY, 0)

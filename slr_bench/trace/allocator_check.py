"""The independent check: every allocation alive at the allocator's own peak, compared with the trace.

An allocation is matched by its address to a traced storage, or to the operator that was running (workspace). All other
allocations, and traced bytes without an allocation behind them, are the residual.

A tracer can also change what autograd does (``slr_bench.untraced``). Then trace and allocator agree and both are wrong.
So the same step runs once more without the tracer, and a difference between the two is residual, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from slr_bench.trace.allocations import Alloc, Enter, Event, Exit, Free, StepBegins, UntracedBegins
from slr_bench.trace.step_trace import BEFORE, StepTrace, Storage

WORKSPACE: Final = "workspace"
ROUNDING: Final = "rounding"
NO_OPERATOR: Final = "no operator"
NUMBER_BYTES: Final = 16
"""Size of the largest number type, complex128."""


@dataclass(eq=False)
class Block:
    """One allocation during its life."""

    size_bytes: int
    operator: str | None
    position: int
    """Number of the operator that was running or had run last."""
    is_inside: bool
    """True if an operator of the step was running."""
    storage: int | None = None
    """Number of the traced storage on it."""
    is_loader: bool = False


@dataclass(frozen=True)
class AllocatorPeak:
    """The allocator's own peak within the step, and the bytes alive there, both without those of the loader."""

    peak_bytes: int
    position: int
    operator: str | None
    """Name of the operator that was running, if any."""
    by_category: dict[str, int]
    """The tracer's categories, workspace and rounding; with ``unmatched_bytes`` they add up to the peak."""
    workspace: dict[str, int]
    """Operator -> bytes that it allocated beside tensors."""
    unmatched: dict[str, int]
    """Bytes of neither a traced tensor nor an operator of the step, by the earlier operator that allocated them.

    They belong to unnamed tensors that are kept where Python cannot reach them."""
    missing_bytes: int
    """Bytes traced as alive that no allocation, or too small a one, stands for."""
    loader_bytes: int
    disturbance_bytes: int | None = None
    """Bytes that the step allocates more at its peak with the tracer than without; None if it ran only traced."""

    @property
    def unmatched_bytes(self) -> int:
        """Return all unmatched bytes."""
        return sum(self.unmatched.values())

    @property
    def residual_bytes(self) -> int:
        """Return the bytes on which the tracer and the allocator disagree, or the step with and without a tracer."""
        return self.unmatched_bytes + self.missing_bytes + abs(self.disturbance_bytes or 0)


class _Growth:
    """Bytes of the blocks that one step allocates, without numbers: on their way to a tracer they become tensors.

    Earlier blocks do not count, because a log of the CPU does not report their end.
    """

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._live_bytes = 0
        self.peak_bytes = 0

    def take(self, event: Event) -> None:
        if isinstance(event, Alloc) and event.size_bytes > NUMBER_BYTES:
            self._sizes[event.address] = event.size_bytes
            self._live_bytes += event.size_bytes
            self.peak_bytes = max(self.peak_bytes, self._live_bytes)
        elif isinstance(event, Free):
            self._live_bytes -= self._sizes.pop(event.address, 0)


def disturbance_bytes(events: Iterable[Event]) -> int | None:
    """Return how much more the traced step allocates at its peak than the untraced one; None without such a step."""
    growths: list[_Growth] = []
    for event in events:
        if isinstance(event, (UntracedBegins, StepBegins)):
            growths.append(_Growth())
        elif growths:
            growths[-1].take(event)
    if len(growths) != 2:
        return None
    untraced, traced = growths
    return traced.peak_bytes - untraced.peak_bytes


@dataclass
class _Replay:
    storages: Sequence[Storage]
    loader_addresses: frozenset[int]
    born: dict[int, list[int]] = field(default_factory=dict)
    first_used: dict[int, list[int]] = field(default_factory=dict)
    live: dict[int, Block] = field(default_factory=dict)
    between: list[Block] = field(default_factory=list)
    """Allocations since the last operator ended."""
    position: int = BEFORE
    inside: int | None = None
    in_step: bool = False
    live_bytes: int = 0
    peak_bytes: int = -1
    peak_live: list[Block] = field(default_factory=list)
    peak_position: int = BEFORE
    peak_inside: int | None = None

    def __post_init__(self) -> None:
        for number, storage in enumerate(self.storages):
            # A storage that no operator of the step made was there before the operator that first used it.
            numbers = self.born if storage.operator else self.first_used
            numbers.setdefault(storage.born, []).append(number)

    def take(self, event: Event) -> None:
        if isinstance(event, Alloc):
            self._allocate(event)
        elif isinstance(event, Free):
            block = self.live.pop(event.address, None)
            if block and not block.is_loader:
                self.live_bytes -= block.size_bytes
        elif isinstance(event, Enter):
            self._adopt_numbers(event.number)
            self.position = self.inside = event.number
            self._claim(self.first_used.get(event.number, ()))
        elif isinstance(event, Exit):
            self.inside = None
            self.between.clear()
            self._claim(self.born.get(event.number, ()))
        elif isinstance(event, StepBegins):
            self._begin()

    def _adopt_numbers(self, number: int) -> None:
        """Assign small allocations to the operator that begins: a number among its arguments becomes a tensor first."""
        for block in self.between:
            if block.size_bytes <= NUMBER_BYTES and block.storage is None:
                block.position, block.is_inside = number, True
        self.between.clear()

    def _begin(self) -> None:
        self.in_step = True
        self.between.clear()
        self._claim(self.first_used.get(BEFORE, ()))
        for address in self.loader_addresses & self.live.keys():
            self.live[address].is_loader = True
            self.live_bytes -= self.live[address].size_bytes
        self._note_peak()

    def _allocate(self, event: Alloc) -> None:
        block = Block(event.size_bytes, event.operator, self.position, self.inside is not None)
        self.live[event.address] = block
        if self.inside is None:
            self.between.append(block)
        self.live_bytes += event.size_bytes
        if self.in_step:
            self._note_peak()

    def _note_peak(self) -> None:
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes = self.live_bytes
            self.peak_live = list(self.live.values())
            self.peak_position, self.peak_inside = self.position, self.inside

    def _claim(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            address = self.storages[number].address
            block = self.live.get(address) if address else None
            if block:
                block.storage = number


def match_peak(
    events: Sequence[Event], step: StepTrace, loader_addresses: frozenset[int] = frozenset()
) -> AllocatorPeak:
    """Replay the allocator's events and account for every byte alive at its peak in the step."""
    storages, operators = step.storages, step.operators
    replay = _Replay(storages, loader_addresses)
    for event in events:
        replay.take(event)
    position = replay.peak_position
    by_category: Counter[str] = Counter()
    workspace: Counter[str] = Counter()
    unmatched: Counter[str] = Counter()
    missing = loader = 0
    backed = set()
    for block in replay.peak_live:
        if block.is_loader:
            loader += block.size_bytes
        elif block.storage is not None:
            storage = storages[block.storage]
            backed.add(block.storage)
            by_category[storage.category_at(position)] += min(block.size_bytes, storage.size_bytes)
            by_category[ROUNDING] += max(0, block.size_bytes - storage.size_bytes)
            missing += max(0, storage.size_bytes - block.size_bytes)
        elif block.is_inside:
            by_category[WORKSPACE] += block.size_bytes
            workspace[operators[block.position].name] += block.size_bytes
        else:
            unmatched[block.operator or NO_OPERATOR] += block.size_bytes
    # While operator n runs, its results are not alive yet, and tensors that die after it still are.
    inside = replay.peak_inside
    for number, storage in enumerate(storages):
        begun = storage.born < position if inside is not None else storage.born <= position
        gone = storage.died is not None and (storage.died < position or (inside is None and storage.died == position))
        if begun and not gone and number not in backed:
            missing += storage.size_bytes
    return AllocatorPeak(
        peak_bytes=max(0, replay.peak_bytes),
        position=position,
        operator=operators[inside].name if inside is not None else None,
        by_category={name: count for name, count in by_category.items() if count},
        workspace=dict(workspace.most_common()),
        unmatched=dict(unmatched.most_common()),
        missing_bytes=missing,
        loader_bytes=loader,
        disturbance_bytes=disturbance_bytes(events),
    )

"""What steps in a row ask CUDA's allocator for: memory of tensors, of operators while they run, and of libraries.

The first step makes the optimizer's state between gradients and activations, where it stays: what is reserved later
depends on it. So both are told, in order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import torch

from slr_bench.trace.fake.cpu_rules import ByName
from slr_bench.trace.fake.workspaces import PRODUCTS, Workspace, name_of
from slr_bench.trace.recording import BEFORE, Story
from slr_bench.trace.request_kinds import ALLOCATE, FREE, LIBRARY, STEADY, TRANSIENT, UNMODELLED

COPY: Final = -1
"""Stands for the copies that an operator makes of its inputs while it runs."""
STEADY_STEPS: Final = 1
"""More change nothing in what is reserved but by a page of an expandable segment (tried: 2 and 4)."""

Request = list[int]
Rule = Callable[[Any, ByName, Any], Workspace]


class Heard(NamedTuple):
    """An operator that needs more than its tensors."""

    position: int
    name: str
    workspace: Workspace
    is_product: bool
    in_backward: bool


class WorkspaceLog:
    """What the operators of a recorded step need beside their tensors.

    It hears them (``CpuFakeMode.heard``), and is the recorder's log: what runs beside the step is passed over.
    """

    def __init__(self, rule: Rule) -> None:
        """``rule``: of ``trace.workspaces``."""
        self._rule = rule
        self._position: int | None = None
        self.heard: list[Heard] = []

    def step_begins(self) -> None:
        """Nothing to do."""

    @contextmanager
    def mark(self, number: int) -> Iterator[None]:
        """Operator ``number`` of the step runs inside."""
        self._position = number
        try:
            yield
        finally:
            self._position = None

    def __call__(self, operator: Any, arguments: ByName, made: Any) -> None:
        """One operator ran."""
        if self._position is None:
            return
        workspace = self._rule(operator, arguments, made)
        name = name_of(operator)
        if workspace.most_bytes or workspace.copied_bytes or name in PRODUCTS:
            in_backward = torch._C._current_autograd_node() is not None
            self.heard.append(Heard(self._position, name, workspace, name in PRODUCTS, in_backward))


def unmodelled(heard: Sequence[Heard]) -> list[dict[str, Any]]:
    """Operators without a rule: how often they ran, and the most that one call may need."""
    calls: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for one in heard:
        if not one.workspace.is_modelled:
            calls[one.name] += 1
            most[one.name] = max(most[one.name], one.workspace.most_bytes)
    return [{"operator": name, "calls": calls[name], "most_bytes": size} for name, size in most.most_common()]


Lives = Sequence[tuple[int, int | None]]
"""Of each storage: where it was made, where it went."""


def lives(story: Story) -> Lives:
    """The lives of the story's storages."""
    return [(storage.born, storage.died) for storage in story.storages]


def requests(story: Story, heard: Sequence[Heard], first: Lives, steady: Lives) -> list[Request]:
    """The requests of the first step and of a steady one (``trace.steady``), in order, by the storages' lives in each.

    What is there before the steady step was made in the first.
    """
    by_position: dict[int, list[Heard]] = defaultdict(list)
    for one in heard:
        by_position[one.position].append(one)
    sizes = [storage.size_bytes for storage in story.storages]
    made_anew = {
        number
        for number, ((_, died), (born, _)) in enumerate(zip(first, steady, strict=False))
        if died is None and born != BEFORE
    }
    found: list[Request] = []
    for turn in range(1 + STEADY_STEPS):
        if turn == STEADY_STEPS:
            found.append([STEADY, 0, 0])
        births: dict[int, list[int]] = defaultdict(list)
        deaths: dict[int, list[int]] = defaultdict(list)
        for number, (born, died) in enumerate(steady[: len(first)] if turn else first):
            if sizes[number] and not (turn and born == BEFORE):
                births[born].append(number)
                if died is not None:
                    deaths[died].append(number)
        for position in range(BEFORE, len(story.operators)):
            for number in births.get(position, ()):
                found.append([ALLOCATE, number + turn * len(first) * (number in made_anew), sizes[number]])
            for one in by_position.get(position, ()):
                if one.is_product:
                    found.append([LIBRARY, int(one.in_backward), 0])
                copied = one.workspace.copied_bytes
                found += [[ALLOCATE, COPY, copied]] if copied else []
                if one.workspace.most_bytes:
                    kind = TRANSIENT if one.workspace.is_modelled else UNMODELLED
                    found.append([kind, one.workspace.expected_bytes, one.workspace.most_bytes])
                found += [[FREE, COPY, 0]] if copied else []
            found += [[FREE, number, 0] for number in deaths.get(position, ())]
        if turn:  # what the step before left goes when this one's takes its place
            found += [[FREE, number + (turn - 1) * len(first), 0] for number in sorted(made_anew) if sizes[number]]
    return found

"""A step of another micro-batch, told from two that were traced: what does not change between them is traced once.

Where a smaller and a larger micro-batch run the same operators on the same storages, every size is a part that grows
with the micro-batch and one that does not, so one in between follows. That the step in between runs those operators
too is not looked at: a workload that takes another way for some sizes in the middle only would be told wrongly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

from slr_bench.trace.fake.workspaces import Workspace
from slr_bench.trace.recording import Operator, Storage, Story
from slr_bench.trace.requests import Heard

One = TypeVar("One")


class Told(NamedTuple):
    """A recorded first step, its state named, and what belongs to it."""

    samples: int
    """A micro-batch."""
    story: Story
    heard: Sequence[Heard]
    samples_per_step: int
    loader_bytes: int


Between = Callable[[int, int], int]


class _NotBetweenError(Exception):
    """The two steps differ in more than sizes, or a size between them is no whole number."""


def told_between(low: Told, high: Told, samples: int) -> Told | None:
    """The step with ``samples`` in a micro-batch; None where the two do not tell it."""

    def between(small: int, large: int) -> int:
        grown, rest = divmod((large - small) * (samples - low.samples), high.samples - low.samples)
        if rest:
            raise _NotBetweenError
        return small + grown

    try:
        return Told(
            samples,
            _story(low.story, high.story, between),
            _heard(low.heard, high.heard, between),
            between(low.samples_per_step, high.samples_per_step),
            between(low.loader_bytes, high.loader_bytes),
        )
    except _NotBetweenError:
        return None


def _story(low: Story, high: Story, between: Between) -> Story:
    _same(low.split_modules, high.split_modules)
    _same(low.flops_by_dtype.keys(), high.flops_by_dtype.keys())
    return Story(
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
    made = replace(low, size_bytes=between(low.size_bytes, high.size_bytes), shape=shape, key=-1)
    _same(replace(high, size_bytes=made.size_bytes, shape=shape, key=-1), made)
    return made


def _operator(low: Operator, high: Operator, between: Between) -> Operator:
    made = low._replace(touched_bytes=between(low.touched_bytes, high.touched_bytes))
    _same(high._replace(touched_bytes=made.touched_bytes), made)
    return made


def _heard(low: Sequence[Heard], high: Sequence[Heard], between: Between) -> list[Heard]:
    found = []
    for one, other in _pairs(low, high):
        small, large = one.workspace, other.workspace
        workspace = Workspace(
            between(small.expected_bytes, large.expected_bytes),
            between(small.most_bytes, large.most_bytes),
            small.is_modelled,
            between(small.copied_bytes, large.copied_bytes),
        )
        for few, many in zip(small, large, strict=True):  # whether one sample is copied says nothing of several
            _same(few > 0, many > 0)
        made = one._replace(workspace=workspace)
        _same(large.is_modelled, small.is_modelled)
        _same(other._replace(workspace=workspace), made)
        found.append(made)
    return found


def _pairs(low: Sequence[One], high: Sequence[One]) -> Iterator[tuple[One, One]]:
    _same(len(low), len(high))
    return zip(low, high, strict=True)


def _same(one: object, other: object) -> None:
    if one != other:
        raise _NotBetweenError

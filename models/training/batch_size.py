"""The micro-batch that fits: cut from loaded batches, halved when memory runs out, grown again."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import nn

from models.training.checkpoint import random_state, set_random_state
from models.training.evaluation import ClipBatch
from slr_bench.errors import EXIT_DOES_NOT_FIT, SlrBenchError
from slr_bench.oom import ALLOCATION_ERRORS, OutOfMemoryKind, out_of_memory_kind
from slr_bench.probes.host import give_heap_back

GROW_AFTER_STEPS = 50
T = TypeVar("T")


class DoesNotFit(SlrBenchError):
    """The training needs more memory than there is."""

    exit_code = EXIT_DOES_NOT_FIT


class OutOfMemory:
    """What :func:`attempt` returns instead of a result."""


@contextmanager
def out_of_memory_told(what: Callable[[], str], may_halve: bool, advisor_arguments: str = "") -> Iterator[None]:
    """Turn an out-of-memory inside into :class:`DoesNotFit`, with the cure.

    ``what()``, asked then, did not fit; ``may_halve``: dynamic batch sizing is off and could be on.
    ``advisor_arguments``: those that name this setting, quoted for a shell (``--config out/config.yml``).
    """
    try:
        yield
    except ALLOCATION_ERRORS as error:
        found = out_of_memory_kind(error)
        if found is None:
            raise
        kind = "GPU memory" if found is OutOfMemoryKind.GPU else "memory"
        advisor = " ".join(filter(None, ("python -m models.training.advisor --symptom oom", advisor_arguments)))
        cure = f"{advisor} says what to change"
        if may_halve:
            cure += ", training.dynamic_batch_size: true halves the micro-batch by itself"
        raise DoesNotFit(f"out of {kind}: {what()} does not fit; {cure}") from error


def attempt(work: Callable[[], T], may_repeat: Callable[[], bool]) -> T | OutOfMemory:
    """The result of ``work``; if memory runs out, a note of it, when everything that the work held is free again.

    The exception holds the frames it came through, and they hold tensors (pytorch#27600): it must be gone before the
    memory is wanted again, so nothing is tried inside ``except``. Where ``may_repeat`` then says no, it is raised.
    """
    try:
        return work()
    except ALLOCATION_ERRORS as error:
        if out_of_memory_kind(error) is None or not may_repeat():
            raise
    gc.collect()  # of frames in reference cycles
    give_heap_back()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # blocks cut for the old size would not serve the new one
    return OutOfMemory()


class BeforeStep:
    """What a half-done step has changed beside gradients: buffers (running statistics) and random numbers.

    With it, a step that is taken again equals bit by bit one that began with the smaller micro-batch. Dropout draws per
    micro-batch, so its masks differ from those of the larger one, as they do between any two micro-batch sizes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        self._random = random_state()

    @torch.no_grad()
    def restore(self) -> None:
        """Put all back."""
        for buffer, before in self._buffers:
            buffer.copy_(before)
        set_random_state(self._random)


@dataclass
class MicroBatchSize:
    """The micro-batch in use: ``largest`` or what halvings leave of it.

    A size that did not fit is tried again after ``grow_after_steps`` steps that left room, and each time it fails
    after twice as many: what can never fit costs ever less.
    """

    largest: int
    size: int = 0
    grow_after_steps: int = GROW_AFTER_STEPS
    good_steps: int = 0
    """Steps with room for more since the last change."""
    waits: dict[int, int] = field(default_factory=dict)
    """Good steps to wait for a size that has failed."""

    def __post_init__(self) -> None:
        self.size = self.size or self.largest

    def shrink(self) -> bool:
        """Half of it, rounded up; False if it is a single clip already."""
        if self.size == 1:
            return False
        self.waits[self.size] = 2 * self.waits[self.size] if self.size in self.waits else self.grow_after_steps
        self.size = -(-self.size // 2)
        self.good_steps = 0
        return True

    def step_done(self, room: bool) -> bool:
        """A step fitted, with or without ``room`` for twice as much; True if the next one takes the larger size."""
        self.good_steps = self.good_steps + 1 if room else 0
        larger = [size for size in self._halvings() if size > self.size]
        if not larger or self.good_steps < self.waits.get(larger[-1], self.grow_after_steps):
            return False
        self.size, self.good_steps = larger[-1], 0
        return True

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"size": self.size, "good_steps": self.good_steps, "waits": dict(self.waits)}

    def _halvings(self) -> Iterator[int]:
        size = self.largest
        yield size
        while size > 1:
            size = -(-size // 2)
            yield size


def pieces_of(batches: Iterable[ClipBatch], size: int) -> Iterator[ClipBatch]:
    """Micro-batches of at most ``size`` clips, each loaded batch cut as evenly as can be.

    Holds one loaded batch at most, and lets go of it with its last piece. Pieces are views of it.
    """
    return _Pieces(batches, size)


class _Pieces(Iterator[ClipBatch]):  # no generator: its frame would keep a batch alive while the next is loaded
    def __init__(self, batches: Iterable[ClipBatch], size: int) -> None:
        self._batches, self._size = iter(batches), size
        self._left: list[ClipBatch] = []

    def __next__(self) -> ClipBatch:
        if not self._left:
            self._left = _cut(next(self._batches), self._size)
        return self._left.pop()


def _cut(batch: Any, size: int) -> list[ClipBatch]:
    """Last piece first. What has one entry a clip is cut, whatever else the batch carries stays as it is."""
    clips = len(batch.labels_B)
    count = -(-clips // size)
    if count <= 1:
        return [batch]
    bounds = [clips * number // count for number in range(count + 1)]
    entries = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    per_clip = {name for name, value in entries.items() if hasattr(value, "__len__") and len(value) == clips}
    return [
        dataclasses.replace(batch, **{name: entries[name][first:end] for name in per_clip})
        for first, end in reversed(list(pairwise(bounds)))
    ]

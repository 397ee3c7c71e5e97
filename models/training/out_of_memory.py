"""Handles an out-of-memory error: explains it to the user, or catches it and frees everything for another attempt."""

from __future__ import annotations

import gc
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from models.command import command_text
from slr_bench.errors import EXIT_DOES_NOT_FIT, SlrBenchError
from slr_bench.oom import ALLOCATION_ERRORS, OutOfMemoryKind, out_of_memory_kind
from slr_bench.probes.host import give_heap_back

T = TypeVar("T")


class DoesNotFit(SlrBenchError):
    """The training needs more memory than there is."""

    exit_code = EXIT_DOES_NOT_FIT


class OutOfMemory:
    """Returned by :func:`run_or_catch_oom` instead of a result."""


@contextmanager
def explain_out_of_memory(
    describe_work: Callable[[], str], may_halve: bool, advisor_arguments: str = ""
) -> Iterator[None]:
    """Turn an out-of-memory error inside into :class:`DoesNotFit`, which names the cure.

    Args:
        describe_work: returns what did not fit; called only after the error.
        may_halve: dynamic batch sizing is off, and switching it on could help.
        advisor_arguments: arguments that name this setting, quoted for a shell (``--config out/config.yml``).
    """
    try:
        yield
    except ALLOCATION_ERRORS as error:
        kind = out_of_memory_kind(error)
        if kind is None:
            raise
        memory = "GPU memory" if kind is OutOfMemoryKind.GPU else "memory"
        advisor = command_text("models.training.advisor", "--symptom", "oom", *shlex.split(advisor_arguments))
        cure = f"run {advisor} to see what to change"
        if may_halve:
            cure += ", or set training.dynamic_batch_size: true to halve the micro-batch automatically"
        raise DoesNotFit(f"out of {memory}: {describe_work()} does not fit; {cure}") from error


def run_or_catch_oom(work: Callable[[], T], may_repeat: Callable[[], bool]) -> T | OutOfMemory:
    """Return the result of ``work``, or an :class:`OutOfMemory` once all that ``work`` held is free again.

    If ``may_repeat()`` is false after an out-of-memory error, the error is raised. The exception holds the frames that
    it came through, and they hold tensors (pytorch#27600). It must be gone before the memory is needed again, so
    nothing is repeated inside ``except``.
    """
    try:
        return work()
    except ALLOCATION_ERRORS as error:
        if out_of_memory_kind(error) is None or not may_repeat():
            raise
    gc.collect()  # frames in reference cycles hold tensors too
    give_heap_back()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # blocks that were split for the old size would not serve the new one
    return OutOfMemory()

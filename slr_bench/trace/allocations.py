"""The allocator's own log: every allocation and free, and the operator that was running.

It comes from the profiler's memory events on the CPU, and from the caching allocator's history on CUDA. Both are
independent of the tracer: only the marks that the recorder sets around each operator tie the two together.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch._C._profiler import _EventType, _RecordFunctionFast
from torch.profiler import ProfilerActivity, profile

MARK = "slr_bench:"
"""Prefix of a mark: ``slr_bench:17`` is the recorder's operator 17, ``slr_bench:step`` the beginning of its step."""
STEP, UNTRACED = "step", "untraced"


class Alloc(NamedTuple):
    """An allocation. ``operator`` is the outermost operator around it, or None outside operators."""

    address: int
    size_bytes: int
    operator: str | None


class Free(NamedTuple):
    """The end of an allocation."""

    address: int


class Enter(NamedTuple):
    """The start of the recorder's operator ``number``."""

    number: int


class Exit(NamedTuple):
    """The end of the recorder's operator ``number``."""

    number: int


class StepBegins(NamedTuple):
    """The start of the step; allocations alive now are state."""


class UntracedBegins(NamedTuple):
    """The start of the same step without a tracer. It lasts until the traced step begins."""


Event = Alloc | Free | Enter | Exit | StepBegins | UntracedBegins


class CpuAllocations:
    """Record the CPU allocator while open. ``mark`` is for the recorder; ``events`` is filled at the exit."""

    def __init__(self) -> None:
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=False)
        self.events: list[Event] = []

    def __enter__(self) -> Self:
        self._profile.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._profile.__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        if kind is None:
            results: Any = self._profile.profiler.kineto_results  # type: ignore[union-attr]
            self.events = list(cpu_events(results.experimental_event_tree()))

    def mark(self, name: int | str) -> AbstractContextManager[Any]:
        """Return the context in which operator ``name`` runs."""
        return _RecordFunctionFast(f"{MARK}{name}")

    def step_begins(self) -> None:
        """Mark the start of the traced step."""
        with self.mark(STEP):
            pass

    def untraced_begins(self) -> None:
        """Mark the start of the same step without a tracer."""
        with self.mark(UNTRACED):
            pass


def cpu_events(roots: Iterable[Any]) -> Iterator[Event]:
    """Yield the events of the profiler's tree in the order of time, threads merged."""
    threads: dict[int, list[Any]] = {}
    for root in roots:
        threads.setdefault(root.start_tid, []).append(root)
    for _, event in heapq.merge(*(_timed(nodes) for nodes in threads.values()), key=lambda timed: timed[0]):
        yield event


def _timed(roots: Iterable[Any]) -> Iterator[tuple[int, Event]]:
    """Yield one thread's events depth first, which is their order; their times, made monotonic, order threads."""
    clock_ns = 0
    for time_ns, event in _walk(roots):
        clock_ns = max(clock_ns, time_ns)
        yield clock_ns, event


def _walk(roots: Iterable[Any]) -> Iterator[tuple[int, Event]]:
    todo: list[tuple[Any, str | None, bool]] = []
    todo += [(root, None, False) for root in roots][::-1]
    while todo:
        node, operator, is_end = todo.pop()
        tag = node.tag
        if is_end:
            yield node.end_time_ns, Exit(_number(node.name))
        elif tag == _EventType.Allocation:
            fields = node.extra_fields
            if fields.device.type == "cpu":
                size: int = fields.alloc_size
                yield node.start_time_ns, Alloc(fields.ptr, size, operator) if size > 0 else Free(fields.ptr)
        else:
            name = node.name if tag == _EventType.TorchOp else ""
            if name == MARK + STEP:
                yield node.start_time_ns, StepBegins()
            elif name == MARK + UNTRACED:
                yield node.start_time_ns, UntracedBegins()
            elif name.startswith(MARK):
                yield node.start_time_ns, Enter(_number(name))
                todo.append((node, None, True))
            elif operator is None and name.startswith("aten::"):
                operator = name.replace("aten::", "aten.")
            todo += [(child, operator, False) for child in reversed(node.children)]


def _number(mark: str) -> int:
    return int(mark.removeprefix(MARK))


class CudaAllocations:
    """Record the CUDA caching allocator while open, with Python stacks only (``all`` took 461 s against 4 s)."""

    def __init__(self, device: torch.device, memory: Any = torch.cuda.memory, set_metadata: Any = None) -> None:
        self._device, self._memory = device, memory
        self._set_metadata = set_metadata or torch._C._cuda_setMemoryMetadata
        self.events: list[Event] = []

    def __enter__(self) -> Self:
        self._memory._record_memory_history(stacks="python", context="alloc", max_entries=10_000_000)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                snapshot = self._memory._snapshot(self._device)
                self.events = list(cuda_events(snapshot["device_traces"][self._device.index or 0]))
        finally:
            self._memory._record_memory_history(enabled=None)

    def mark(self, name: int | str) -> AbstractContextManager[Any]:
        """Return the context in which operator ``name`` runs; the allocator stamps its entries with the name."""
        return _Stamp(self._set_metadata, str(name))

    def step_begins(self) -> None:
        """Mark the start of the traced step."""
        self._note(STEP)

    def untraced_begins(self) -> None:
        """Mark the start of the same step without a tracer."""
        self._note(UNTRACED)

    def _note(self, name: str) -> None:
        # An allocation of its own carries the stamp into the history.
        with self.mark(name):
            torch.empty(1, device=self._device)


def why_no_cuda_log(memory: Any = torch.cuda.memory) -> str | None:
    """Return why this torch's CUDA allocator cannot stamp its history with operators, or None if it can."""
    supported = getattr(memory, "_memory_metadata_supported", None)
    if supported is None:
        return f"torch {torch.__version__} cannot stamp the CUDA allocator's history; use a newer one"
    if not supported():
        return "only torch's native CUDA allocator keeps a history; unset backend in PYTORCH_ALLOC_CONF"
    return None


class _Stamp:
    def __init__(self, set_metadata: Any, text: str) -> None:
        self._set_metadata, self._text = set_metadata, text

    def __enter__(self) -> None:
        self._set_metadata(self._text)

    def __exit__(self, *_: object) -> None:
        self._set_metadata("")


def cuda_events(entries: Iterable[Mapping[str, Any]]) -> Iterator[Event]:
    """Yield the events of one device's entries of ``_snapshot()["device_traces"]``; ``user_metadata`` has the marks."""
    stamp = ""
    for entry in entries:
        now = str(entry.get("user_metadata", ""))
        if now != stamp:
            if stamp.isdigit():
                yield Exit(int(stamp))
            if now == STEP:
                yield StepBegins()
            elif now == UNTRACED:
                yield UntracedBegins()
            elif now.isdigit():
                yield Enter(int(now))
            stamp = now
        if entry["action"] == "alloc":
            yield Alloc(entry["addr"], entry["size"], f"operator {now}" if now.isdigit() else None)
        elif entry["action"] == "free_completed":
            yield Free(entry["addr"])
    if stamp.isdigit():
        yield Exit(int(stamp))

"""Live tensor bytes of one step, counted at the dispatcher: exact, and the same on every machine for a torch version.

A storage counts once however many views it has, from the operator that made it until the last reference goes. What an
operator allocates and frees inside itself is not seen here.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode

OUTSIDE = "outside"  # between phases


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all live storages on one device while open.

    ``state`` are the tensors alive before the step by category. Those of category ``loader`` are not counted: the
    loader owns them. A tensor that an operator uses without having been made in the step or named in the state was
    alive from the start, and is counted from there.
    """

    def __init__(self, device: torch.device, state: Mapping[str, Iterable[torch.Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device_type = device.type
        self._watched: dict[int, weakref.ref[Any]] = {}
        self._not_counted: set[int] = set()
        self._phase = OUTSIDE
        self.live_bytes = 0
        self.peak_bytes = 0
        self.peak_by_phase: dict[str, int] = {}
        self.timeline: list[tuple[int, str]] = []
        """Live bytes and phase after each operator that made a tensor."""
        for category, tensors in state.items():
            for tensor in tensors:
                if category == "loader":
                    self._ignore(tensor)
                else:
                    self._count(tensor)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: nothing here is compiled, and the wrapper that torch adds otherwise costs every operator."""
        return False

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        self._note_peak()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self._watched.clear()  # drops the callbacks: what dies later is no longer the step's

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Name the part of the step that runs inside."""
        outer, self._phase = self._phase, name
        self._note_peak()
        try:
            yield
        finally:
            self._phase = outer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = self.live_bytes
        if func is not torch.ops.aten.lift_fresh.default:
            # torch.tensor(...) lifts a real tensor, which under fake tensors is not the step's; the result is.
            for tensor in _tensors((args, kwargs)):
                self._count(tensor)
        missed = self.live_bytes - before
        if missed:  # alive since the start: every earlier moment had them too
            self.peak_bytes += missed
            self.peak_by_phase = {name: peak + missed for name, peak in self.peak_by_phase.items()}
            self.timeline = [(live + missed, phase) for live, phase in self.timeline]
        made = func(*args, **kwargs)
        before = self.live_bytes
        for tensor in _tensors(made):
            self._count(tensor)
        if self.live_bytes != before:
            self._note_peak()
            self.timeline.append((self.live_bytes, self._phase))
        return made

    def _count(self, tensor: torch.Tensor) -> None:
        if tensor.device.type != self._device_type:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._watched or key in self._not_counted:
            return
        size = storage.nbytes()

        def gone(_: object) -> None:
            if self._watched.pop(key, None) is not None:
                self.live_bytes -= size

        self._watched[key] = weakref.ref(storage, gone)
        self.live_bytes += size

    def _ignore(self, tensor: torch.Tensor) -> None:
        self._not_counted.add(tensor.untyped_storage()._cdata)

    def _note_peak(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self.peak_by_phase[self._phase] = max(self.peak_by_phase.get(self._phase, 0), self.live_bytes)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Tensors in an operator's arguments or results; plain recursion, far cheaper than a pytree here."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)

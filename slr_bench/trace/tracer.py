"""Live tensor bytes of one step, counted at the dispatcher: exact, and the same on every machine for a torch version.

A storage counts once however many views it has, from the operator that made it until the last reference goes. What an
operator allocates and frees inside itself is not seen here.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

OUTSIDE = "outside"  # between phases
LOADER = "loader"
"""Category of what the loader owns: not counted."""
PARAMETER = "parameter"
GRADIENT = "gradient"
BUFFER = "buffer"
OPTIMIZER_STATE = "optimizer state"
HELD = "held"
"""Category of tensors alive before the step that the workload does not name, such as the last step's losses."""

State = Mapping[str, Iterable[torch.Tensor]]
"""Tensors alive before the step, by category."""
OnHost = Callable[[int], bool]
"""Whether a storage (``_cdata``) is host memory where fake tensors of the CPU stand for a GPU's."""


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all live storages on one device while open.

    ``state`` are the tensors alive before the step by category. Those of category ``loader`` are not counted: the
    loader owns them. A tensor that an operator uses without having been made by one (``torch.from_numpy``, another
    process) counts from that operator on. With ``fake`` only fake tensors count: a real one is a constant on its way.
    Those that are ``on_host`` do not.
    """

    def __init__(self, device: torch.device, state: State, fake: bool = False, on_host: OnHost | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._on_host = on_host
        self._device_type = device.type
        self._fake = fake
        self._watched: dict[int, weakref.ref[Any]] = {}
        self._sizes: dict[int, int] = {}
        self._not_counted: set[int] = set()
        self._may_resize: dict[Any, bool] = {}
        self._phase = OUTSIDE
        self.live_bytes = 0
        self.peak_bytes = 0
        self.peak_by_phase: dict[str, int] = {}
        self.timeline: list[tuple[int, str]] = []
        """Live bytes and phase after each operator that made a tensor."""
        for category, tensors in state.items():
            for tensor in tensors:
                if category == LOADER:
                    self._not_counted.add(tensor.untyped_storage()._cdata)
                else:
                    self._count(tensor, category)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: nothing here is compiled, and the wrapper that torch adds otherwise costs every operator."""
        return False

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        self._plain_rng_state = torch.get_rng_state
        torch.get_rng_state = self._rng_state
        self._note_peak()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.get_rng_state = self._plain_rng_state
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
        for tensor in tensors_in((args, kwargs) if kwargs else args):
            self._count(tensor, None)
        made = func(*args, **kwargs)
        if self._resizes(func):
            self._measure_again(tensors_in((args, kwargs)))
        for tensor in tensors_in(made):
            self._count(tensor, None)
        if self.live_bytes != before:
            self._note_peak()
            self.timeline.append((self.live_bytes, self._phase))
        return made

    def _rng_state(self) -> torch.Tensor:
        """Made by no operator, and real even among fake tensors; recomputation keeps one for every region."""
        state = self._plain_rng_state()
        if self._on_host is None:  # a GPU's state is kept in host memory
            self._count(state, None, real_too=True)
        return state

    def _count(self, tensor: torch.Tensor, category: str | None, real_too: bool = False) -> int | None:
        """Key of the tensor's storage, counted now if it was not before; None where it does not count."""
        try:
            storage = tensor.untyped_storage()
        except NotImplementedError:  # sparse: its parts are tensors of their own
            return None
        key: int = storage._cdata
        if key in self._watched:
            return key
        if is_traceable_wrapper_subclass(tensor):  # quantised and such: its parts are tensors of their own
            for part in tensor.__tensor_flatten__()[0]:
                self._count(getattr(tensor, part), category)
            return None
        is_other = self._fake and not real_too and not isinstance(tensor, FakeTensor)
        if is_other or key in self._not_counted or tensor.device.type != self._device_type:
            return None
        if self._on_host is not None and self._on_host(key):
            return None
        size = storage.nbytes()

        def gone(_: object) -> None:
            if self._watched.pop(key, None) is not None:
                self.live_bytes -= self._sizes.pop(key)
                self._died(key)

        self._watched[key] = weakref.ref(storage, gone)
        self._sizes[key] = size
        self.live_bytes += size
        self._born(key, tensor, size, category)
        return key

    def _born(self, key: int, tensor: torch.Tensor, size: int, category: str | None) -> None:
        """A storage counts from now on; ``category`` is that of the state, None within the step."""

    def _died(self, key: int) -> None:
        """A storage counts no longer."""

    def _resized(self, key: int, size: int) -> None:
        """A storage has another size from now on."""

    def _resizes(self, func: Any) -> bool:
        """Whether an operator can change the size of a storage it is given (``resize_``, ``out=``)."""
        known = self._may_resize.get(func)
        if known is None:
            name = func._schema.name.partition("::")[2]
            known = name.startswith(("resize", "set_")) or any(argument.is_out for argument in func._schema.arguments)
            self._may_resize[func] = known
        return known

    def _measure_again(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in self._watched and self._sizes[key] != size:
                self.live_bytes += size - self._sizes[key]
                self._sizes[key] = size
                self._resized(key, size)

    def _note_peak(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self.peak_by_phase[self._phase] = max(self.peak_by_phase.get(self._phase, 0), self.live_bytes)


Others = list[weakref.ref[Any]]
"""Storages that are not the workload's."""


def others_alive(fake: bool = False) -> Others:
    """Storages alive before the workload was built (constants of modules, another workload's): none of its own."""
    return [weakref.ref(tensor.untyped_storage()) for tensor in _reachable(fake)]


def with_held(state: State, device: torch.device, fake: bool = False, others: Others | None = None) -> State:
    """``state``, the parameters' gradients if any live, and as ``held`` every other tensor that Python can reach now.

    What a step leaves to the next (its losses, a cache of the workload's) is memory of the step, named or not.
    """
    named = {category: list(tensors) for category, tensors in state.items()}
    gradients = [parameter.grad for parameter in named.get(PARAMETER, ()) if parameter.grad is not None]
    named[GRADIENT] = [*named.get(GRADIENT, ()), *gradients]
    known = {tensor.untyped_storage()._cdata for tensors in named.values() for tensor in tensors}
    known |= {storage._cdata for other in others or () if (storage := other()) is not None}
    for tensor in _reachable(fake):
        key = tensor.untyped_storage()._cdata
        if tensor.device.type == device.type and key not in known:
            known.add(key)
            named.setdefault(PARAMETER if isinstance(tensor, torch.nn.Parameter) else HELD, []).append(tensor)
    return named


def _reachable(fake: bool) -> Iterator[torch.Tensor]:
    """Tensors that the collector knows. What the fork server imported is frozen and not among them."""
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor) and isinstance(thing, FakeTensor) == fake:
            tensor: torch.Tensor = thing
            if tensor.layout == torch.strided:
                yield tensor


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Tensors in an operator's arguments or results; plain recursion, far cheaper than a pytree here."""
    found: list[torch.Tensor] = []
    _collect(value, found)
    return found


def _collect(value: Any, found: list[torch.Tensor]) -> None:
    if isinstance(value, torch.Tensor):
        found.append(value)
    elif isinstance(value, (list, tuple)):
        for item in value:
            if isinstance(item, torch.Tensor):
                found.append(item)
            elif isinstance(item, (list, tuple, dict)):
                _collect(item, found)
    elif isinstance(value, dict):
        _collect(list(value.values()), found)

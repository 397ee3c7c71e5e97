"""The one counter of live tensor bytes: exact at the dispatcher, and the same on every machine for a torch version.

A storage counts once however many views it has, from the operator that made it until its last reference goes. Memory
that an operator allocates and frees while it runs does not count.
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
from torch.utils.flop_counter import flop_registry

from slr_bench.untraced import UntracedOperators
from slr_bench.untraced_formulas import untraced_formulas

OUTSIDE = "outside"
"""Name of the time between two phases."""
LOADER = "loader"
"""Category of the tensors that the data loader owns. They do not count."""
DEVICE_OF_FAKE = torch.ops.prim.device.default
"""Returns the device of a fake tensor. Torch calls it often and it does no work."""

State = Mapping[str, Iterable[torch.Tensor]]
"""Tensors alive before the step, by category."""
OnHost = Callable[[int], bool]
"""Predicate that is true for a storage (``_cdata``) in host memory, when fake CPU tensors stand for a GPU's."""
StorageReferences = list[weakref.ref[Any]]


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the bytes of all live storages on one device while open.

    A tensor that an operator uses and that no operator made (``torch.from_numpy``, another process) counts from that
    operator on.

    Args:
        device: only storages on devices of its type count.
        state: the tensors alive before the step, by category. Those of category ``loader`` do not count.
        fake: count fake tensors only; a real one is then a constant about to be converted.
        on_host: its storages do not count.
    """

    def __init__(self, device: torch.device, state: State, fake: bool = False, on_host: OnHost | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._untraced = UntracedOperators()
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
        """Live bytes and phase after each operator that changed them."""
        for category, tensors in state.items():
            for tensor in tensors:
                if category == LOADER:
                    self._not_counted.add(tensor.untyped_storage()._cdata)
                else:
                    self._count(tensor, category)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: nothing here is compiled, and the wrapper that torch adds otherwise slows every operator."""
        return False

    def __enter__(self) -> Self:
        self._formulas = untraced_formulas(self._device_type, as_cuda=self._on_host is not None)
        self._formulas.__enter__()
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
        self._formulas.__exit__(None, None, None)
        self._watched.clear()  # drops the callbacks: storages that die later are not part of the step

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
        node = torch._C._current_autograd_node()
        if node is not None:
            func = self._untraced.find(func, args, node)
        before = self.live_bytes
        for tensor in tensors_in((args, kwargs) if kwargs else args):
            self._count(tensor, None)
        result = func(*args, **kwargs)
        if self._resizes(func):
            self._measure_again(tensors_in((args, kwargs)))
        made = tensors_in(result)
        for tensor in made:
            self._count(tensor, None)
        if node is not None:
            self._untraced.note(func, made, node)
        if self.live_bytes != before:
            self._note_peak()
            self.timeline.append((self.live_bytes, self._phase))
        return result

    def _rng_state(self) -> torch.Tensor:
        """Return the state of the random generator, and count it.

        No operator makes this tensor, and it is real even among fake ones. Recomputation keeps one per region.
        """
        state = self._plain_rng_state()
        if self._on_host is None:  # a GPU's state is kept in host memory
            self._count(state, None, real_too=True)
        return state

    def _count(
        self, tensor: torch.Tensor, category: str | None, real_too: bool = False, free: bool = False
    ) -> int | None:
        """Return the key of the tensor's storage, or None if it does not count; count the storage if it is new.

        A storage that is ``free`` counts with 0 bytes.
        """
        try:
            storage = tensor.untyped_storage()
        except NotImplementedError:  # sparse: its parts are tensors of their own
            return None
        key: int = storage._cdata
        if key in self._watched:
            return key
        if is_traceable_wrapper_subclass(tensor):  # for example quantised: its parts are tensors of their own
            for part in tensor.__tensor_flatten__()[0]:
                self._count(getattr(tensor, part), category, free=free)
            return None
        is_constant = self._fake and not real_too and not isinstance(tensor, FakeTensor)
        if is_constant or key in self._not_counted or tensor.device.type != self._device_type:
            return None
        if self._on_host is not None and self._on_host(key):
            return None
        size = 0 if free else storage.nbytes()

        def on_death(_: object) -> None:
            if self._watched.pop(key, None) is not None:
                self.live_bytes -= self._sizes.pop(key)
                self._died(key)

        self._watched[key] = weakref.ref(storage, on_death)
        self._sizes[key] = size
        self.live_bytes += size
        self._born(key, tensor, size, category)
        return key

    def _born(self, key: int, tensor: torch.Tensor, size: int, category: str | None) -> None:
        """React to a storage that counts from now on; ``category`` is None for a tensor made within the step."""

    def _died(self, key: int) -> None:
        """React to a storage that does not count any longer."""

    def _resized(self, key: int, size: int) -> None:
        """React to a storage whose size has changed."""

    def _resizes(self, func: Any) -> bool:
        """Return whether an operator can change the size of a storage that is passed to it (``resize_``, ``out=``)."""
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


class NewBytes(LiveBytes):  # type: ignore[no-untyped-call]
    """Count the storages that operators make while open, until they die, and the floating-point operations.

    Storages that were there before do not count. Deaths are counted after the end too, so that ``live_bytes`` stays
    true. ``peak_bytes`` may be set to start a new peak.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device, {})
        self.flops = 0
        """Floating-point operations of products and convolutions, by torch's own formulas."""

    def __enter__(self) -> Self:
        TorchDispatchMode.__enter__(self)  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        TorchDispatchMode.__exit__(self, kind, error, trace)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is DEVICE_OF_FAKE:
            return args[0].fake_device if isinstance(args[0], FakeTensor) else func(*args, **kwargs)
        node = torch._C._current_autograd_node()
        if node is not None:
            func = self._untraced.find(func, args, node)
        for tensor in tensors_in((args, kwargs)):
            self._count(tensor, None, free=True)
        result = func(*args, **kwargs)
        made = tensors_in(result)
        for tensor in made:
            self._count(tensor, None)
        if node is not None:
            self._untraced.note(func, made, node)
        self._note_peak()
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        return result


def storages_alive(fake: bool = False) -> StorageReferences:
    """Return the storages alive now. Call it before the workload is built, to know those that are not its own."""
    return [weakref.ref(tensor.untyped_storage()) for tensor in reachable_tensors(fake)]


def reachable_tensors(fake: bool) -> Iterator[torch.Tensor]:
    """Yield the dense tensors that the garbage collector knows.

    Those imported by the fork server are frozen and not among them.
    """
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor) and isinstance(thing, FakeTensor) == fake:
            tensor: torch.Tensor = thing
            if tensor.layout == torch.strided:
                yield tensor


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Return the tensors in an operator's arguments or results; plain recursion is far cheaper than a pytree here."""
    tensors: list[torch.Tensor] = []
    _collect(value, tensors)
    return tensors


def _collect(value: Any, tensors: list[torch.Tensor]) -> None:
    if isinstance(value, torch.Tensor):
        tensors.append(value)
    elif isinstance(value, (list, tuple)):
        for item in value:
            if isinstance(item, torch.Tensor):
                tensors.append(item)
            elif isinstance(item, (list, tuple, dict)):
                _collect(item, tensors)
    elif isinstance(value, dict):
        _collect(list(value.values()), tensors)

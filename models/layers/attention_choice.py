"""Which exact attention is cheapest here: peak bytes first, counted without running, then time, measured.

B clip, A attention head, T frame (query), S frame (key), D feature of a head
"""

from __future__ import annotations

import logging
import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
"""``attention(q_BATD, k_BASD, v_BASD, keep, bias)`` -> BATD."""

NEAR_BYTES = 1.125
"""A kind with up to this many times the fewest bytes may win by time ..."""
MUCH_FASTER = 2.0
"""... if it is this much faster than that with the fewest: no noise decides, so equal runs choose alike."""
ROUNDS = 5

_LOG = logging.getLogger(__name__)
_known: dict[Any, Choice] = {}


class Choice(NamedTuple):
    """What was chosen for one device, type and shape, and the figures it was chosen by."""

    kind: str
    where: str
    bytes_by_kind: dict[str, int]
    """Most bytes alive at once in forward and backward, beside the inputs; what an operator allocates inside itself is
    not among them."""
    seconds_by_kind: dict[str, float]
    """Of those with few enough bytes, where there was more than one; empty on fake tensors, which take no time."""

    def __str__(self) -> str:
        seconds = {kind: f" {value * 1e3:.3g} ms" for kind, value in self.seconds_by_kind.items()}
        figures = (f"{kind} {size:,} B{seconds.get(kind, '')}" for kind, size in self.bytes_by_kind.items())
        return f"{self.kind} for {self.where} ({', '.join(figures)})"


def choose(
    kinds: Mapping[str, Attention],
    q_BATD: Tensor,
    k_BASD: Tensor,
    v_BASD: Tensor,
    keep: Tensor | None = None,
    bias: Tensor | None = None,
) -> Choice:
    """The kind with the fewest peak bytes in forward and, with gradients on, backward.

    One with at most ``NEAR_BYTES`` times as many is taken instead if it runs at least ``MUCH_FASTER``; among equals the
    first one named wins. Bytes are counted on fake tensors (0.04 s of processor time a chunk of keys): a kind whose
    scores would not fit is never run, and a step on fake tensors, which take no time, chooses by bytes alone. The
    process remembers what it chose, and logs it the first time.
    """
    inputs = (q_BATD, k_BASD, v_BASD, keep, bias)
    is_fake = isinstance(q_BATD, FakeTensor)
    training = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs[:3])
    device, autocast = q_BATD.device, torch.is_autocast_enabled(q_BATD.device.type)
    shapes = tuple(None if tensor is None else (tensor.shape, tensor.dtype) for tensor in inputs)
    key = (*kinds, device, autocast, training, is_fake, shapes)
    if key not in _known:
        with _alone(), torch.set_grad_enabled(training):
            sizes = {kind: _peak_bytes(attention, inputs) for kind, attention in kinds.items()}
            few = [kind for kind, size in sizes.items() if size <= NEAR_BYTES * min(sizes.values())]
            seconds = {} if is_fake or len(few) == 1 else _seconds({kind: kinds[kind] for kind in few}, inputs)
        shape = " x ".join(map(str, q_BATD.shape))
        where = (
            f"{device.type} {str(q_BATD.dtype).removeprefix('torch.')} {shape}{'' if training else ', no gradients'}"
        )
        _known[key] = Choice(_cheapest(sizes, seconds), where, sizes, seconds)
        _LOG.info("attention: auto chose %s", _known[key])
    return _known[key]


def _cheapest(sizes: Mapping[str, int], seconds: Mapping[str, float]) -> str:
    leanest = min(sizes, key=sizes.__getitem__)
    if not seconds:
        return leanest
    fastest = min(seconds, key=seconds.__getitem__)
    return fastest if seconds[leanest] >= MUCH_FASTER * seconds[fastest] else leanest


@contextmanager
def _alone() -> Iterator[None]:
    """What is around the step (a tracer, recomputation, saving to host memory) sees nothing of the choosing."""
    with _disable_current_modes(), torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        yield


def _peak_bytes(attention: Attention, inputs: tuple[Tensor | None, ...]) -> int:
    with FakeTensorMode():
        twins = tuple(None if tensor is None else _twin(tensor) for tensor in inputs)
        grad_BTE = _gradient(twins)
        with _PeakBytes([tensor for tensor in (*twins, grad_BTE) if tensor is not None]) as counter:
            _run(attention, twins, grad_BTE)
    return counter.peak_bytes


def _seconds(kinds: Mapping[str, Attention], inputs: tuple[Tensor | None, ...]) -> dict[str, float]:
    """Median wall time of a run of each, in turn after one that warms up."""
    leaves = tuple(None if x is None else x.detach().requires_grad_(x.requires_grad) for x in inputs)
    grad_BTE = _gradient(leaves)
    device = grad_BTE.device
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(1 + ROUNDS):
        for kind, attention in kinds.items():
            _wait(device)
            start_s = time.perf_counter()
            _run(attention, leaves, grad_BTE)
            _wait(device)
            times[kind].append(time.perf_counter() - start_s)
    return {kind: statistics.median(values[1:]) for kind, values in times.items()}


def _run(attention: Attention, inputs: tuple[Any, ...], grad_BTE: Tensor) -> None:
    """Forward and backward, up to what the projection behind takes: heads side by side."""
    out_BTE = attention(*inputs).transpose(1, 2).flatten(2)
    if out_BTE.requires_grad:
        with torch.autocast(out_BTE.device.type, enabled=False):  # as a trainer's backward runs
            torch.autograd.grad(out_BTE, [tensor for tensor in inputs[:3] if tensor.requires_grad], grad_BTE)


def _twin(tensor: Tensor) -> Tensor:
    """A leaf of its shape, strides and type in the fake mode that is open."""
    twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return twin.requires_grad_(tensor.requires_grad)


def _gradient(inputs: tuple[Any, ...]) -> Tensor:
    q_BATD, v_BASD = inputs[0], inputs[2]
    return v_BASD.new_zeros(q_BATD.shape[0], q_BATD.shape[2], q_BATD.shape[1] * v_BASD.shape[-1])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _PeakBytes(TorchDispatchMode):
    """Most bytes of live storages that operators made while open; those of ``known`` tensors are not counted."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self._known = known  # held: a storage that went would leave its number to another
        self._watched: dict[int, Any] = {tensor.untyped_storage()._cdata: None for tensor in known}
        self._live_bytes = self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._watched:
            return

        def gone(_: object) -> None:
            del self._watched[key]
            self._live_bytes -= size

        self._watched[key] = weakref.ref(storage, gone)
        self._live_bytes += size

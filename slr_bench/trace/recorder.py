"""Record one step: every operator, and every storage with its category, its maker and its life."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from types import TracebackType
from typing import Any, Self

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import flop_registry

from slr_bench.live_bytes import (
    DEVICE_OF_FAKE,
    LiveBytes,
    OnHost,
    State,
    StorageReferences,
    reachable_tensors,
    tensors_in,
)
from slr_bench.trace.owners import NO_MODULE, ModuleTracker, SavedTensors, origin
from slr_bench.trace.step_trace import (
    BEFORE,
    GRADIENT,
    HELD,
    INPUT,
    LOAD_PHASE,
    PARAMETER,
    TEMPORARY,
    TF32,
    WEIGHT_CAST,
    Operator,
    StepTrace,
    Storage,
)

_CAST = torch.ops.aten._to_copy.default
_aten = torch.ops.aten
_FLOPS = {  # torch has no formula for the CPU's fused attention, which computes the GPU's products
    **flop_registry,
    _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[_aten._scaled_dot_product_flash_attention],
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _aten._scaled_dot_product_flash_attention_backward
    ],
}
_CONVOLUTIONS = (_aten.convolution, _aten._convolution, _aten.cudnn_convolution, _aten.convolution_backward)


class Recorder(LiveBytes):  # type: ignore[no-untyped-call]
    """Count as :class:`LiveBytes` does, and record the step. ``mark(n)`` is entered around operator ``n``."""

    def __init__(
        self,
        device: torch.device,
        state: State,
        fake: bool = False,
        mark: Any = None,
        on_host: OnHost | None = None,
    ) -> None:
        self.step_trace = StepTrace()
        """The recorded step; complete after the exit."""
        self._mark = mark or (lambda number: nullcontext())
        self._by_key: dict[int, int] = {}
        self._running: Any = None
        self._new_is_weight_cast = False
        self._node: Any = None
        self._modules = ModuleTracker()
        self._inside = ExitStack()
        self._parameters = [tensor for tensor in state.get(PARAMETER, ()) if tensor.requires_grad]
        super().__init__(device, state, fake, on_host)

    def __enter__(self) -> Self:
        self._inside.enter_context(self._modules)
        self._inside.enter_context(SavedTensors(self._saved))
        for parameter in self._parameters:
            handle = parameter.register_post_accumulate_grad_hook(self._accumulated)  # type: ignore[no-untyped-call]
            _call_first(parameter, handle.id)
            self._inside.callback(handle.remove)
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        survivors = dict(self._by_key)
        super().__exit__(kind, error, trace)
        self._inside.close()
        self._complete(survivors)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is DEVICE_OF_FAKE:
            return args[0].fake_device if isinstance(args[0], FakeTensor) else func(*args, **kwargs)
        self._node = node = torch._C._current_autograd_node()
        if node is not None:
            func = self._untraced.find(func, args, node)
        before = self.live_bytes
        keys = {self._count(tensor, None): None for tensor in tensors_in((args, kwargs) if kwargs else args)}
        step = self.step_trace
        number = len(step.operators)
        with self._mark(number):
            result = func(*args, **kwargs)
        self._running, self._new_is_weight_cast = func, self._is_weight_cast(func, keys)
        if self._resizes(func):
            self._measure_again(tensors_in((args, kwargs)))
        made = tensors_in(result)
        for tensor in made:
            keys[self._count(tensor, None)] = None
        if node is not None:
            self._untraced.note(func, made, node)
        self._running = self._node = None
        packet = func.overloadpacket
        if packet in _FLOPS:
            flops = _FLOPS[packet](*args, **kwargs, out_val=result)
            step.flops += flops
            step.flops_by_dtype[_arithmetic(packet, tensors_in(result)[0])] += flops
        by_key = self._by_key
        storages = tuple(by_key[key] for key in keys if key is not None and key in by_key)
        touched = 0 if func.is_view else sum(self._sizes[key] for key in keys if key in self._sizes)
        step.touched_bytes += touched
        step.operators.append(Operator(str(packet), self._modules.current(node), self._phase, storages, touched))
        if self.live_bytes != before:
            self._note_peak()
            self.timeline.append((self.live_bytes, self._phase))
        return result

    def _born(self, key: int, tensor: torch.Tensor, size: int, category: str | None) -> None:
        in_step, step = category is None, self.step_trace
        self._by_key[key] = len(step.storages)
        step.storages.append(
            Storage(
                size_bytes=size,
                shape=tuple(tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."),
                address=None if self._fake else tensor.untyped_storage().data_ptr(),
                category=self._category_of_new() if in_step else str(category),
                born=len(step.operators) if in_step else BEFORE,
                operator=str(self._running.overloadpacket) if in_step and self._running else None,
                module=self._modules.current(self._node) if in_step else NO_MODULE,
                phase=self._phase,
                origin=origin(self._node) if in_step else "before the step",
                key=key,
            )
        )

    def _category_of_new(self) -> str:
        if self._phase == LOAD_PHASE:
            return INPUT
        return WEIGHT_CAST if self._running and self._new_is_weight_cast else TEMPORARY

    def _is_weight_cast(self, func: Any, keys: dict[int | None, None]) -> bool:
        """Return whether it copies a parameter to another type, as autocast does."""
        numbers = [self._by_key[key] for key in keys if key is not None]
        return func is _CAST and [self.step_trace.storages[number].category for number in numbers] == [PARAMETER]

    def _died(self, key: int) -> None:
        self.step_trace.storages[self._by_key.pop(key)].died = len(self.step_trace.operators) - 1

    def _note_peak(self) -> None:
        if self.live_bytes > self.peak_bytes:
            self.step_trace.peak_position = len(self.step_trace.operators) - 1
        super()._note_peak()

    def _resized(self, key: int, size: int) -> None:
        self.step_trace.storages[self._by_key[key]].size_bytes = size

    def _saved(self, tensor: torch.Tensor) -> None:
        number = self._by_key.get(tensor.untyped_storage()._cdata)
        if number is not None and self.step_trace.storages[number].saved_from is None:
            self.step_trace.storages[number].saved_from = len(self.step_trace.operators) - 1

    def _accumulated(self, parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            number = self._by_key.get(parameter.grad.untyped_storage()._cdata)
            if number is not None:
                self.step_trace.storages[number].category = GRADIENT

    def _complete(self, survivors: dict[int, int]) -> None:
        """Add the peaks, and the owners of state, now that the modules and optimizers of the step are known."""
        step = self.step_trace
        step.peak_bytes, step.peak_by_phase = self.peak_bytes, self.peak_by_phase
        owned = self._modules.owned()
        for key, number in survivors.items():
            storage = step.storages[number]
            if key in owned:
                storage.module, category = owned[key]
                if storage.category in (HELD, TEMPORARY):
                    storage.category = category
        step.split_modules = tuple(self._modules.split)


def with_unnamed(
    state: State, device: torch.device, fake: bool = False, not_its_own: StorageReferences | None = None
) -> State:
    """Return ``state`` with all other tensors that Python can reach now, save those that are ``not_its_own``.

    The parameters' gradients are added to theirs; what has no name is of category ``held``. The tensors that one step
    leaves to the next (its losses, a cache of the workload) are memory of the step, named or not.
    """
    named = {category: list(tensors) for category, tensors in state.items()}
    gradients = [parameter.grad for parameter in named.get(PARAMETER, ()) if parameter.grad is not None]
    named[GRADIENT] = [*named.get(GRADIENT, ()), *gradients]
    known = {tensor.untyped_storage()._cdata for tensors in named.values() for tensor in tensors}
    known |= {storage._cdata for reference in not_its_own or () if (storage := reference()) is not None}
    for tensor in reachable_tensors(fake):
        key = tensor.untyped_storage()._cdata
        if tensor.device.type == device.type and key not in known:
            known.add(key)
            named.setdefault(PARAMETER if isinstance(tensor, torch.nn.Parameter) else HELD, []).append(tensor)
    return named


def _call_first(parameter: torch.Tensor, hook_id: int) -> None:
    """Move a hook before all others, as an optimizer that runs in backward drops the gradient."""
    hooks: Any = parameter._post_accumulate_grad_hooks
    others = {number: hook for number, hook in hooks.items() if number != hook_id}
    for number in others:
        del hooks[number]
    hooks.update(others)


def _arithmetic(packet: Any, result: torch.Tensor) -> str:
    """Return the type that CUDA computes in: ``tf32`` where it may round the factors of fp32 products."""
    if result.dtype is torch.float32:
        cudnn: Any = torch.backends.cudnn
        backend: Any = cudnn.conv if packet in _CONVOLUTIONS else torch.backends.cuda.matmul
        if backend.fp32_precision == TF32:
            return TF32
    return str(result.dtype).removeprefix("torch.")

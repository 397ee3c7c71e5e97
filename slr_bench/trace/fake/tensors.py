"""Fake tensors: shapes and types without contents, so that a step can be traced with no data and no GPU.

A fake kernel returns shapes and types without computing. Where they differ from the real kernel's, traced bytes would
differ too; ``RULES`` corrects each such operator of a CPU. The table has a version (``TRACE_RULES`` in
``worker.context``), and every entry has a test against the real kernel. Operators are corrected one by one, models
never.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from slr_bench.errors import UnsupportedSettingError
from slr_bench.trace.owners import OWN_SOURCE

_COMPILER: Final = "torch._dynamo"
_TORCH = f"{Path(torch.__file__).parent}/"
_MIXED = "Please convert all Tensors to FakeTensors first"
_ON_REAL_TENSORS = "trace real tensors: slr-bench profile without --fake"
_RANDOM = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)
_TABLES = ("_parameters", "_buffers", "_modules")


class _Unfilled(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Write zeros instead of random numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0].zero_() if func in _RANDOM else func(*args, **(kwargs or {}))


def unfilled() -> TorchDispatchMode:
    """Return a mode in which weights are initialised with zeros.

    Drawing random weights is a tenth of the time for a model that then gets fake tensors.
    """
    return _Unfilled()  # type: ignore[no-untyped-call]


def swap_for_fake(module: torch.nn.Module, mode: FakeTensorMode) -> torch.nn.Module:
    """Replace every tensor of a really built module by its fake twin, shared ones staying shared.

    Building inside the fake mode fails for many models (``trunc_normal_``, ``copy.deepcopy``); swapping works for all.
    Tensors that a module holds as plain attributes, also in lists, tuples and dicts, are swapped with the registered.

    Raises:
        UnsupportedSettingError: a lazily created parameter has no shape yet.
    """
    twins: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for path, owner in module.named_modules():
        for table in (owner._parameters, owner._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    if is_lazy(tensor):
                        raise UnsupportedSettingError(
                            f"{'.'.join(filter(None, (path, name)))} has no shape before the first forward pass, fake "
                            "tensors need one; give the sizes, or run a forward pass when building"
                        )
                    table[name] = _twin(tensor, mode, twins)
        for name, value in vars(owner).items():
            if name not in _TABLES:
                vars(owner)[name] = _swapped(value, mode, twins)
    return module


def _twin(tensor: torch.Tensor, mode: FakeTensorMode, twins: dict[int, Any]) -> torch.Tensor:
    """Return the one twin of a tensor; the original is kept beside it, so that no other tensor gets its id."""
    if id(tensor) not in twins:
        fake: torch.Tensor = mode.from_tensor(tensor.detach())
        if isinstance(tensor, torch.nn.Parameter):
            fake = torch.nn.Parameter(fake, tensor.requires_grad)
        elif tensor.is_leaf:
            fake.requires_grad_(tensor.requires_grad)
        twins[id(tensor)] = (tensor, fake)
    return twins[id(tensor)][1]  # type: ignore[no-any-return]


def _swapped(value: Any, mode: FakeTensorMode, twins: dict[int, Any]) -> Any:
    if isinstance(value, torch.Tensor):
        return _twin(value, mode, twins)
    if type(value) in (list, tuple) and _holds_tensor(value):
        return type(value)(_swapped(item, mode, twins) for item in value)
    if type(value) is dict and _holds_tensor(value.values()):
        return {key: _swapped(item, mode, twins) for key, item in value.items()}
    return value


def _holds_tensor(values: Any) -> bool:
    """Return whether a container has tensors and must be copied; others keep their identity."""
    return any(
        isinstance(value, torch.Tensor)
        or (isinstance(value, (list, tuple)) and _holds_tensor(value))
        or (isinstance(value, dict) and _holds_tensor(value.values()))
        for value in values
    )


@contextmanager
def refusals_explained() -> Iterator[None]:
    """Turn the errors of fake tensors into ``UnsupportedSettingError``.

    Raises:
        UnsupportedSettingError: one line with the operator, the source line and the cure.
    """
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        known = explained(error)
        if known is None:
            raise
        raise known from error


def explained(error: BaseException) -> UnsupportedSettingError | None:
    """Return the error explained in one line, or None if it has nothing to do with fake tensors."""
    if isinstance(error, (DataDependentOutputException, DynamicOutputShapeException)):
        text = f"operator {error.func} needs the contents of a tensor, fake tensors have none"
        cure = f"keep it out of the step, or {_ON_REAL_TENSORS}"
    elif isinstance(error, UnsupportedOperatorException):
        text, cure = f"operator {error.func} has no fake kernel", "register one with torch.library.register_fake"
    elif isinstance(error, AssertionError) and _MIXED in str(error):
        operator = str(error).partition("Found in ")[2].partition("(")[0] or "unknown"
        text = f"operator {operator} was given a real tensor among fake ones"
        cure = "hold it as an attribute or buffer of the module that is placed, or make it inside the step"
    elif isinstance(error, RuntimeError) and "NestedTensorImpl" in str(error):
        text = "a nested tensor has no fake twin (nn.TransformerEncoder makes one of a padding mask in inference)"
        cure = f"build nn.TransformerEncoder with enable_nested_tensor=False, or {_ON_REAL_TENSORS}"
    else:
        return None
    return UnsupportedSettingError(f"{text} ({place_of(error)}); {cure}")


def place_of(error: BaseException) -> str:
    """Return the innermost line of code outside torch and the tracer, without its path: records carry none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((_TORCH, *OWN_SOURCE)):
            return f"{Path(frame.filename).name}:{frame.lineno}: {frame.line}"
    return "no line known"


aten = torch.ops.aten

Rule = Callable[[Any, Mapping[str, Any]], Any]
"""``rule(the fake kernel's result, arguments by name)`` -> the real kernel's result."""
ByName = Callable[[], Mapping[str, Any]]
"""Returns an operator's arguments by name; most are never read."""
OnOperator = Callable[[Any, ByName, Any], None]
"""``on_operator(operator, its arguments, its result)``."""


class CpuFakeMode(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Fake tensors of a CPU, with its ``rules`` applied. ``swap_for_fake`` converts modules that were built before."""

    on_operator: OnOperator | None = None
    """Called after each operator, except those that torch runs to find the result of another one."""
    _inside = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: nothing here is compiled, and the wrapper that torch adds otherwise slows every operator."""
        return False

    @property
    def rules(self) -> Mapping[Any, Rule]:
        """The corrections of fake kernels."""
        return RULES

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        outer, self._inside = self._inside, True
        try:
            result = super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            self._inside = outer
        rule = self.rules.get(func)
        if rule is not None:
            result = rule(result, _by_name(func, args, kwargs))
        if self.on_operator is not None and not self._inside:
            self.on_operator(func, lambda: _by_name(func, args, kwargs), result)
        return result


def _by_name(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = [argument.name for argument in func._schema.arguments]
    return dict(zip(names, args, strict=False)) | dict(kwargs)


def _retyped(tensor: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """Return the same shape in another type; a fake tensor keeps its mode."""
    if tensor is None or tensor.dtype == dtype:
        return tensor
    with tensor.fake_mode:  # type: ignore[attr-defined]
        return torch.empty_like(tensor, dtype=dtype)


def _statistics_dtype(arguments: Mapping[str, Any]) -> torch.dtype:
    """Return the type of a norm's statistics: fp32 if its parameters have another type than its input.

    ``is_mixed_type`` and ``param_scalar_type`` in ``aten/src/ATen/native/cpu/mixed_data_type.h``: the first parameter
    that exists decides. The fake kernels take the input's type, as if nothing were mixed.
    """
    for name in ("weight", "bias", "running_mean", "running_var"):
        if arguments.get(name) is not None:
            return torch.float32 if arguments[name].dtype != arguments["input"].dtype else arguments["input"].dtype
    return arguments["input"].dtype  # type: ignore[no-any-return]


def _norm(result: Any, arguments: Mapping[str, Any]) -> Any:
    """Correct mean and inverse deviation under autocast: float32 beside a bf16 output."""
    output, mean, deviation = result
    dtype = _statistics_dtype(arguments)
    return output, _retyped(mean, dtype), _retyped(deviation, dtype)


def _batch_norm_backward(result: Any, arguments: Mapping[str, Any]) -> Any:
    """Correct the gradients of weight and bias: without a weight they have the type of the running statistics."""
    grad_input, grad_weight, grad_bias = result
    dtype = _statistics_dtype(arguments)
    return grad_input, _retyped(grad_weight, dtype), _retyped(grad_bias, dtype)


def _group_norm_backward(result: Any, arguments: Mapping[str, Any]) -> Any:
    """Correct the gradient of the input: it has the input's type, which the fake kernel promotes with the weight's."""
    grad_input, grad_weight, grad_bias = result
    return _retyped(grad_input, arguments["input"].dtype), grad_weight, grad_bias


def _mean_of_losses(result: Any, arguments: Mapping[str, Any]) -> Any:
    """Correct the storage of a reduced loss: the real kernels first write the loss of every element there."""
    if arguments.get("reduction") == 0:
        return result
    shape = torch.broadcast_shapes(arguments["self"].shape, arguments["target"].shape)  # type: ignore[no-untyped-call]
    with result.fake_mode:
        return torch.empty(shape, dtype=result.dtype).resize_(())


def _rnn_layer(result: Any, arguments: Mapping[str, Any]) -> Any:
    """Correct the workspace of an LSTM layer: oneDNN alone knows its size in training; in inference there is none."""
    output, hidden, cell, _ = result
    names = ("input", "weight0", "weight1", "weight2", "weight3", "hx_", "cx_")
    tensors = tuple((tuple(arguments[name].shape), arguments[name].dtype) for name in names)
    rest = tuple(
        tuple(value) if isinstance(value, (list, tuple)) else value
        for name, value in arguments.items()
        if name not in names
    )
    size = _rnn_workspace_bytes(tensors, rest)
    if size is None:
        return output, hidden, cell, None
    with output.fake_mode:
        return output, hidden, cell, torch.empty(size, dtype=torch.uint8)


def _rnn_layer_backward(result: Any, arguments: Mapping[str, Any]) -> Any:
    """Correct the gradients of the two biases: they are two tensors; the fake kernel returns one twice."""
    gradients = list(result)
    with gradients[4].fake_mode:
        gradients[4] = torch.empty_like(gradients[4])
    return tuple(gradients)


@functools.lru_cache(maxsize=256)
def _rnn_workspace_bytes(tensors: tuple[Any, ...], rest: tuple[Any, ...]) -> int | None:
    """Run the real layer on zeros to find its workspace, which depends on oneDNN's version and on the processor.

    Costs one forward pass of the layer and its memory, once per shape. Returns None if there is no workspace.

    Raises:
        UnsupportedSettingError: oneDNN has no such layer on this processor (bf16 without the instructions for it).
    """
    real = [torch.zeros(shape, dtype=dtype) for shape, dtype in tensors]
    try:
        workspace = aten.mkldnn_rnn_layer.default(*real, *rest)[3]
    except RuntimeError as error:
        kind = str(tensors[0][1]).removeprefix("torch.")
        raise UnsupportedSettingError(
            f"operator aten.mkldnn_rnn_layer.default: no LSTM in {kind} on this processor, neither on real tensors "
            f"({str(error).partition('.')[0]}); use precision fp32"
        ) from error
    return None if workspace is None else workspace.untyped_storage().nbytes()


RULES: Mapping[Any, Rule] = {
    aten.native_batch_norm.default: _norm,
    aten._native_batch_norm_legit.default: _norm,
    aten._native_batch_norm_legit.no_stats: _norm,
    aten.native_batch_norm_backward.default: _batch_norm_backward,
    aten.native_layer_norm.default: _norm,
    aten.native_group_norm.default: _norm,
    aten.native_group_norm_backward.default: _group_norm_backward,
    aten.binary_cross_entropy.default: _mean_of_losses,
    aten.mse_loss.default: _mean_of_losses,
    aten.smooth_l1_loss.default: _mean_of_losses,
    aten.soft_margin_loss.default: _mean_of_losses,
    aten.mkldnn_rnn_layer.default: _rnn_layer,
    aten.mkldnn_rnn_layer_backward.default: _rnn_layer_backward,
}


def defer_compiler() -> None:
    """Load torch's compiler when it is first used, instead of with the first fake tensor.

    ``FakeTensorMode`` reads a setting of ``torch._dynamo`` and so imports all of it, which takes a second. Here the
    package becomes a shell: its submodules can be imported, and any other attribute loads all of it. Optimizers and
    checkpoints call two of its functions in every step; these do nothing. ``torch.compile`` returns its argument.
    """
    spec = find_spec(_COMPILER)
    if spec is None or _COMPILER in sys.modules:
        return
    shell = _Shell(_COMPILER)
    shell.__spec__, shell.__path__, shell.__file__ = spec, list(spec.submodule_search_locations or ()), spec.origin
    vars(shell).update(graph_break=lambda *arguments, **options: None, disable=_identity)
    sys.modules[_COMPILER] = shell
    vars(torch).update(_dynamo=shell, compile=_identity)


class _Shell(ModuleType):
    """The compiler's package before it is loaded."""

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        if name.startswith("__") or spec is None or spec.loader is None:
            raise AttributeError(name)
        if find_spec(f"{_COMPILER}.{name}") is not None:
            return import_module(f"{_COMPILER}.{name}")
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec.loader.exec_module(self)
        return getattr(self, name)


def _identity(function: Any = None, *arguments: object, **options: object) -> Any:
    return function if function is not None else _identity

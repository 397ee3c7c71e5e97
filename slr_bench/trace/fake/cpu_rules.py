"""Corrections of torch's fake CPU kernels that differ from the real ones, operator by operator.

A fake kernel returns shapes and types without computing. Where they differ from the real kernel's, traced bytes would
differ too; ``RULES`` has each such operator. The table has a version (``TRACE_RULES`` in ``worker.environment``), and
every entry has a test against the real kernel. Operators are corrected one by one, models never.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from slr_bench.errors import UnsupportedSettingError

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
    aten.mkldnn_rnn_layer.default: _rnn_layer,
    aten.mkldnn_rnn_layer_backward.default: _rnn_layer_backward,
}

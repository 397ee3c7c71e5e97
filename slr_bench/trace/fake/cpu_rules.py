"""What torch's fake kernels get wrong about the real ones on a CPU, corrected operator by operator.

A fake kernel says shapes and types without computing. Where it says something else than the real kernel, traced bytes
would differ; ``RULES`` names each such operator. The table has a version (``TRACE_RULES`` in ``run.environment``), and
every entry a test against the real kernel. Operators are corrected one by one, models never.
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
"""``rule(what the fake kernel returned, arguments by name)`` -> what the real kernel would return."""
ByName = Callable[[], Mapping[str, Any]]
"""Gives an operator's arguments by name; most are never looked at."""
Heard = Callable[[Any, ByName, Any], None]
"""``heard(operator, its arguments, what it returned)``."""


class CpuFakeMode(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Fake tensors of a CPU, with its ``rules`` applied. Built modules come in by ``trace.fake.swap_for_fake``."""

    heard: Heard | None = None
    """Told of each operator, but not of those by which torch finds out what another one makes."""
    _inside = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: nothing here is compiled, and the wrapper that torch adds otherwise costs every operator."""
        return False

    @property
    def rules(self) -> Mapping[Any, Rule]:
        """What its fake kernels get wrong."""
        return RULES

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        outer, self._inside = self._inside, True
        try:
            made = super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            self._inside = outer
        rule = self.rules.get(func)
        if rule is not None:
            made = rule(made, _by_name(func, args, kwargs))
        if self.heard is not None and not self._inside:
            self.heard(func, lambda: _by_name(func, args, kwargs), made)
        return made


def _by_name(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = [argument.name for argument in func._schema.arguments]
    return dict(zip(names, args, strict=False)) | dict(kwargs)


def _retyped(tensor: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """The same shape in another type; a fake tensor stays one of its own mode."""
    if tensor is None or tensor.dtype == dtype:
        return tensor
    with tensor.fake_mode:  # type: ignore[attr-defined]
        return torch.empty_like(tensor, dtype=dtype)


def _statistics_dtype(arguments: Mapping[str, Any]) -> torch.dtype:
    """Type of the statistics of a norm: that of its parameters where it differs from the input's.

    ``is_mixed_type`` and ``param_scalar_type`` in ``aten/src/ATen/native/cpu/mixed_data_type.h``: the first parameter
    that exists decides. The fake kernels take the input's type, as if nothing were mixed.
    """
    for name in ("weight", "bias", "running_mean", "running_var"):
        if arguments.get(name) is not None:
            return torch.float32 if arguments[name].dtype != arguments["input"].dtype else arguments["input"].dtype
    return arguments["input"].dtype  # type: ignore[no-any-return]


def _norm(made: Any, arguments: Mapping[str, Any]) -> Any:
    """Mean and inverse deviation under autocast: float32 beside a bf16 output."""
    output, mean, deviation = made
    dtype = _statistics_dtype(arguments)
    return output, _retyped(mean, dtype), _retyped(deviation, dtype)


def _batch_norm_backward(made: Any, arguments: Mapping[str, Any]) -> Any:
    """Gradients of weight and bias without a weight: the type of the running statistics."""
    grad_input, grad_weight, grad_bias = made
    dtype = _statistics_dtype(arguments)
    return grad_input, _retyped(grad_weight, dtype), _retyped(grad_bias, dtype)


def _group_norm_backward(made: Any, arguments: Mapping[str, Any]) -> Any:
    """The gradient of the input has the input's type; the fake kernel promotes it with the weight's."""
    grad_input, grad_weight, grad_bias = made
    return _retyped(grad_input, arguments["input"].dtype), grad_weight, grad_bias


def _rnn_layer(made: Any, arguments: Mapping[str, Any]) -> Any:
    """An LSTM layer in training keeps a workspace whose size oneDNN alone knows; in inference it returns none."""
    output, hidden, cell, _ = made
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


def _rnn_layer_backward(made: Any, arguments: Mapping[str, Any]) -> Any:
    """The gradients of the two biases are two tensors; the fake kernel returns one of them twice."""
    made = list(made)
    with made[4].fake_mode:
        made[4] = torch.empty_like(made[4])
    return tuple(made)


@functools.lru_cache(maxsize=256)
def _rnn_workspace_bytes(tensors: tuple[Any, ...], rest: tuple[Any, ...]) -> int | None:
    """The real layer asked, on zeros: its layout depends on oneDNN's version and on the processor.

    Costs one forward pass of the layer and its memory, once a shape. None: no workspace.

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

"""Run a step as a GPU would, on fake tensors of the CPU: without a GPU and without data.

Fake tensors on a CUDA device cannot run backward without a GPU. So they are on the CPU, and each operator that differs
on CUDA is routed. These are autocast's lists, dropout's bool mask, fused attention, the optimizers' ``foreach``
default, statistics in fp32, and the tensors that stay in host memory. ``CUDA_RULES`` is the table's version.
``trace.fake.workspaces`` estimates the memory that operators allocate while they run.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _foreach_utils

from slr_bench.trace.fake.cpu_rules import RULES, CpuFakeMode, Rule
from slr_bench.trace.fake.cuda_autocast import cuda_autocast

CUDA_RULES: Final = 2
aten = torch.ops.aten

_HALF = (torch.float16, torch.bfloat16)
_LARGEST_FLASH_HEAD: Final = 256
_FLASH_GRANULE: Final = 8
_MASK_GRANULE: Final = 8


def _batch_norm(result: Any, arguments: Mapping[str, Any]) -> Any:
    """Correct the statistics: fp32, and present in evaluation too unless cuDNN computes the norm.

    See ``_select_batch_norm_backend`` in ``aten/src/ATen/native/Normalization.cpp``.
    """
    output, mean, deviation = result
    image, weight = arguments["input"], arguments["weight"]
    by_cudnn = (
        weight is not None
        and arguments["bias"] is not None
        and image.ndim > 2
        and (image.dtype == torch.float32 or (image.dtype == torch.float16 and weight.dtype == torch.float32))
    )
    features = 0 if by_cudnn and not arguments["training"] else image.shape[1]
    return output, _statistics(mean, (features,)), _statistics(deviation, (features,))


def _layer_norm(result: Any, arguments: Mapping[str, Any]) -> Any:
    """Correct the statistics: fp32 for any weights (``aten/src/ATen/native/cuda/layer_norm_kernel.cu``)."""
    output, mean, deviation = result
    return output, _statistics(mean, mean.shape), _statistics(deviation, deviation.shape)


def _statistics(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if tensor.shape == shape and tensor.dtype in (torch.float32, torch.float64):
        return tensor
    return tensor.new_empty(shape, dtype=torch.promote_types(tensor.dtype, torch.float32))


CUDA_TABLE: Final[Mapping[Any, Rule]] = {
    **RULES,
    aten.native_batch_norm.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
}
"""The corrections for CUDA, which replace the CPU's ``RULES``."""


class CudaFakeMode(CpuFakeMode):  # type: ignore[no-untyped-call]
    """Fake tensors that behave like those of a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self._on_host: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if (func is aten.lift_fresh.default and result.ndim == 0) or (kwargs or {}).get("pin_memory"):
            self._stays_on_host(result)
        return result

    @property
    def rules(self) -> Mapping[Any, Rule]:
        """The corrections of fake kernels for CUDA."""
        return CUDA_TABLE

    def is_on_host(self, key: int) -> bool:
        """Return whether a storage (``_cdata``) is host memory: a pinned copy, or a number such as a step count."""
        return key in self._on_host

    def _stays_on_host(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        self._on_host[key] = weakref.ref(storage, lambda _: self._on_host.pop(key, None))


@contextmanager
def cuda_routes() -> Iterator[None]:
    """Let operators that choose by device choose as on a GPU, in this process, while open."""
    with ExitStack() as stack:
        stack.enter_context(cuda_autocast())
        library: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
        stack.callback(library._destroy)
        for name, kernel in (("dropout", _dropout), ("scaled_dot_product_attention", _attention)):
            library.impl(name, kernel, "AutogradCPU", allow_override=True)
        devices = _foreach_utils._get_foreach_kernels_supported_devices()
        for module in ("torch.utils._foreach_utils", "torch.optim.optimizer"):
            name = f"{module}._get_foreach_kernels_supported_devices"
            stack.enter_context(mock.patch(name, return_value=[*devices, "cpu"]))
        stack.enter_context(mock.patch.object(_foreach_utils, "_foreach_supported_types", _FOREACH_TYPES))
        stack.enter_context(mock.patch("torch.optim.optimizer._foreach_supported_types", _FOREACH_TYPES))
        yield


_FOREACH_TYPES = [torch.Tensor, torch.nn.Parameter, FakeTensor]


def _dropout(input: torch.Tensor, p: float, train: bool) -> torch.Tensor:
    """Keep a bool mask, as the fused kernel does (``aten/src/ATen/native/Dropout.cpp``)."""
    if not train or p == 0 or not input.numel():
        return input
    if p == 1:
        return input * torch.zeros((), dtype=input.dtype)
    return torch.native_dropout(input, p, train)[0]


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Choose as ``aten/src/ATen/native/transformers/cuda/sdp_utils.cpp``: flash, memory-efficient, plain.

    cuDNN's attention, which recent releases prefer on some GPUs, keeps the same tensors as flash.
    """
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.where(attn_mask, 0.0, torch.scalar_tensor(float("-inf"), dtype=query.dtype))
    head, last = query.shape[-1], value.shape[-1]
    is_fused = query.ndim == 4 and head == last and not enable_gqa
    switches: Any = torch.backends.cuda
    may_flash = switches.flash_sdp_enabled() and attn_mask is None and query.dtype in _HALF
    if is_fused and may_flash and head <= _LARGEST_FLASH_HEAD:
        granule = -head % _FLASH_GRANULE
        if granule:
            scale = head**-0.5 if scale is None else scale
            query, key, value = (torch.nn.functional.pad(part, (0, granule)) for part in (query, key, value))
        out = aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, return_debug_mask=False, scale=scale
        )[0]
        return out[..., :head] if granule else out
    aligned = head % (_FLASH_GRANULE if query.dtype in _HALF else 4) == 0
    if is_fused and aligned and switches.mem_efficient_sdp_enabled():
        bias = None if attn_mask is None else _padded(attn_mask).expand(*query.shape[:3], key.shape[2])
        keeps = torch.is_grad_enabled() and any(part.requires_grad for part in (query, key, value))
        return aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, keeps, dropout_p, is_causal, scale=scale
        )[0]
    return aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
    )[0]


def _padded(mask: torch.Tensor) -> torch.Tensor:
    """Pad rows to a multiple of 8 numbers (``preprocess_mask`` in ``ATen/native/transformers/attention.cpp``)."""
    if mask.stride(-1) == 1 and all(stride % _MASK_GRANULE == 0 for stride in mask.stride()[:-1]):
        return mask
    columns = mask.shape[-1]
    return torch.nn.functional.pad(mask, (0, _MASK_GRANULE - columns % _MASK_GRANULE))[..., :columns]

"""Run a step as a GPU would, on fake tensors of the CPU: without a GPU and without data.

Fake tensors on a CUDA device cannot run backward without a GPU. So they are on the CPU, and each operator that differs
on CUDA is routed. These are autocast's lists, dropout's bool mask, fused attention, the optimizers' ``foreach``
default, statistics in fp32, and the tensors that stay in host memory. ``CUDA_RULES`` is the table's version.

Autocast decides by the device of a tensor, and the two devices' lists differ: CUDA computes ``softmax``, norms and sums
in fp32 and leaves pooling alone; a CPU does the opposite. :func:`cuda_autocast` replaces the CPU's policies by CUDA's
(``aten/src/ATen/autocast_mode.h``, torch 2.11 to 2.14). Only operators that this torch's CUDA build casts are routed; a
test checks that none of them is missing here.
``trace.fake.workspaces`` estimates the memory that operators allocate while they run.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _foreach_utils

from slr_bench.errors import UnsupportedSettingError
from slr_bench.live_bytes import tensors_in
from slr_bench.trace.fake.tensors import RULES, CpuFakeMode, Rule

CUDA_RULES: Final = 3
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


_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
LOWER: Final = """
    _convolution _cudnn_rnn _scaled_dot_product_flash_attention _thnn_fused_gru_cell _thnn_fused_lstm_cell addmv addr
    chain_matmul convolution cudnn_convolution cudnn_convolution_transpose einsum gru_cell linalg_multi_dot lstm_cell mv
    rnn_relu_cell rnn_tanh_cell
"""
"""Operators computed in the autocast type: names with spaces between, as in the lists below."""
FP32: Final = """
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d acos asin cosh cosine_similarity dist erfinv exp expm1 frobenius_norm.dim group_norm
    layer_norm linalg_matrix_sqrth log log10 log1p log2 logsumexp native_layer_norm norm.Scalar norm.ScalarOpt_dim
    nuclear_norm nuclear_norm.dim pdist pow.Scalar pow.Tensor_Scalar pow.Tensor_Tensor reciprocal renorm rms_norm rsqrt
    sinh softplus tan upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d upsample_trilinear3d
"""
"""Operators whose arguments are cast to fp32."""
FP32_RESULT: Final = """
    cumprod cumsum linalg_matrix_norm linalg_matrix_norm.str_ord linalg_vector_norm log_softmax.int prod prod.dim_int
    softmax.int sum sum.dim_IntList
"""
"""Operators that return fp32 unless the call names a type."""
WIDEST: Final = "addcdiv addcmul atan2 bilinear cross dot grid_sampler index_put scatter_add tensordot vdot"
"""Operators computed in the widest type among their arguments."""
REFUSED: Final = "binary_cross_entropy"
"""Operators that raise an error on CUDA; a CPU computes them."""

_FROM_HALF: Final = {
    torch.ops.aten.softmax.int: torch.ops.aten._softmax.default,
    torch.ops.aten.log_softmax.int: torch.ops.aten._log_softmax.default,
}
"""Operators for which CUDA has a kernel that reads fp16 and writes fp32; other types are copied first."""

Kernel = Callable[..., Any]


def casts_on(device: str, name: str) -> bool:
    """Return whether this build of torch has a policy for ``aten::name`` on ``cpu`` or ``cuda``."""
    key = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}[device]
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", key))


def aten_names() -> list[str]:
    """Return all operators of aten, with their overloads."""
    names = (name.partition("::") for name in torch._C._dispatch_get_all_op_names())
    return sorted(operator for space, _, operator in names if space == "aten")


@contextmanager
def cuda_autocast() -> Iterator[None]:
    """Let autocast on the CPU follow CUDA's lists, in this process, while open."""
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    try:
        for name in aten_names():
            if casts_on("cpu", name) and not casts_on("cuda", name):
                _put(library, name, torch.library.fallthrough_kernel)
        for names, kernel in _POLICIES:
            for name in names.split():
                if casts_on("cuda", name):
                    _put(library, name, kernel(_operator(name)))
        yield
    finally:
        library._destroy()  # type: ignore[no-untyped-call]


def _put(library: Any, name: str, kernel: Any) -> None:
    library.impl(name, kernel, "AutocastCPU", allow_override=True)


def _operator(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def _lower(operator: Any) -> Kernel:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.get_autocast_dtype("cpu")
        with torch._C._ExcludeDispatchKeyGuard(_KEYS):
            return operator(*_cast(args, dtype), **_cast(kwargs, dtype))

    return kernel


def _fp32(operator: Any) -> Kernel:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(_KEYS):
            return operator(*_cast(args, torch.float32), **_cast(kwargs, torch.float32))

    return kernel


def _fp32_result(operator: Any) -> Kernel:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        index = _dtype_index(operator)
        has_dtype = kwargs.get("dtype") is not None or (len(args) > index and args[index] is not None)
        with torch._C._ExcludeDispatchKeyGuard(_KEYS):
            if has_dtype or not _is_eligible(args[0]):
                return operator(*args, **kwargs)
            if operator in _FROM_HALF and args[0].dtype == torch.float16:
                return _FROM_HALF[operator](args[0], args[1] if len(args) > 1 else kwargs["dim"], True)
            return operator(*args[:index], **{**kwargs, "dtype": torch.float32})

    return kernel


def _dtype_index(operator: Any) -> int:
    arguments = [argument for argument in operator._schema.arguments if not argument.kwarg_only]
    return next((index for index, argument in enumerate(arguments) if argument.name == "dtype"), len(arguments))


def _widest(operator: Any) -> Kernel:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        types = [tensor.dtype for tensor in tensors_in((args, kwargs)) if _is_eligible(tensor)]
        dtype = torch.float32 if torch.float32 in types else torch.get_autocast_dtype("cpu")
        with torch._C._ExcludeDispatchKeyGuard(_KEYS):
            return operator(*_cast(args, dtype), **_cast(kwargs, dtype))

    return kernel


def _refused(operator: Any) -> Kernel:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        raise UnsupportedSettingError(
            f"operator {operator} refuses autocast on a GPU; give the logits to binary_cross_entropy_with_logits, or "
            "leave autocast for it"
        )

    return kernel


_POLICIES: Final = (
    (LOWER, _lower),
    (FP32, _fp32),
    (FP32_RESULT, _fp32_result),
    (WIDEST, _widest),
    (REFUSED, _refused),
)


def _is_eligible(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype != torch.float64


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if _is_eligible(value) else value
    if isinstance(value, (list, tuple)):
        return type(value)(_cast(item, dtype) for item in value)
    if isinstance(value, dict):
        return {key: _cast(item, dtype) for key, item in value.items()}
    return value

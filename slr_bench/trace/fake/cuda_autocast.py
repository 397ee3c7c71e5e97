"""Apply CUDA's autocast lists to CPU tensors: they say what a GPU computes in which type.

Autocast decides by the device of a tensor, and the two devices' lists differ: CUDA computes ``softmax``, norms and sums
in fp32 and leaves pooling alone; a CPU does the opposite. :func:`cuda_autocast` replaces the CPU's policies by CUDA's
(``aten/src/ATen/autocast_mode.h``, torch 2.11 to 2.14). Only operators that this torch's CUDA build casts are routed; a
test checks that none of them is missing here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

from slr_bench.errors import UnsupportedSettingError
from slr_bench.live_bytes import tensors_in

_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)


def _names(text: str) -> list[str]:
    return text.split()


LOWER: Final = _names(
    """
    _convolution _cudnn_rnn _scaled_dot_product_flash_attention _thnn_fused_gru_cell _thnn_fused_lstm_cell addmv addr
    chain_matmul convolution cudnn_convolution cudnn_convolution_transpose einsum gru_cell linalg_multi_dot lstm_cell mv
    rnn_relu_cell rnn_tanh_cell
"""
)
"""Operators computed in the autocast type."""
FP32: Final = _names(
    """
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d acos asin cosh cosine_similarity dist erfinv exp expm1 frobenius_norm.dim group_norm
    layer_norm linalg_matrix_sqrth log log10 log1p log2 logsumexp native_layer_norm norm.Scalar norm.ScalarOpt_dim
    nuclear_norm nuclear_norm.dim pdist pow.Scalar pow.Tensor_Scalar pow.Tensor_Tensor reciprocal renorm rms_norm rsqrt
    sinh softplus tan upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d upsample_trilinear3d
"""
)
"""Operators whose arguments are cast to fp32."""
FP32_RESULT: Final = _names(
    """
    cumprod cumsum linalg_matrix_norm linalg_matrix_norm.str_ord linalg_vector_norm log_softmax.int prod prod.dim_int
    softmax.int sum sum.dim_IntList
"""
)
"""Operators that return fp32 unless the call names a type."""
WIDEST: Final = _names("addcdiv addcmul atan2 bilinear cross dot grid_sampler index_put scatter_add tensordot vdot")
"""Operators computed in the widest type among their arguments."""
REFUSED: Final = _names("binary_cross_entropy")
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
            for name in names:
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

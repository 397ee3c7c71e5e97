"""Memory that CUDA's operators allocate while they run: none, modelled by a formula, or unmodelled.

The formulas follow torch's sources (2.11 to 2.14); none was measured on a GPU by this project. If a library chooses the
size (cuDNN's convolutions) there is an expectation and a bound. An operator without a rule is bounded by what it reads
and writes, and its name is reported.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch

from slr_bench.live_bytes import tensors_in
from slr_bench.trace.fake.tensors import ByName
from slr_bench.trace.requests import OperatorNeed, Workspace
from slr_bench.units import KIB, MIB

Arguments = Mapping[str, Any]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


NOTHING: Final = Workspace(0, 0, True)
_REDUCTION: Final = Workspace(0, MIB, True)
"""Blocks that share a reduction exchange partial results through a buffer (``gpu_reduce_kernel``)."""

_FOURIER_TILE: Final = 32
"""Side of the tiles that cuDNN transforms by ``FFT_TILING``."""

PRODUCTS: Final = _names("mm addmm addmm_ bmm baddbmm baddbmm_ addbmm addmv mv dot _addmm_activation")
"""Matrix products. They go through cuBLAS, whose workspace stays (``predict.device``)."""

_NOTHING: Final = _names(
    """
    lift_fresh detach alias clone copy_ _to_copy empty empty_like empty_strided zeros zeros_like ones ones_like full
    full_like new_zeros new_empty new_ones new_full new_empty_strided scalar_tensor arange fill_ zero_ cat stack
    _local_scalar_dense item _unsafe_view _reshape_alias resize_ set_ native_dropout native_dropout_backward bernoulli_
    uniform_ normal_ random_ rand randn nll_loss_forward nll_loss_backward grid_sampler_2d grid_sampler_2d_backward
    grid_sampler_3d grid_sampler_3d_backward constant_pad_nd index_select
    gather roll flip slice_backward select_backward tril triu where masked_fill masked_fill_ repeat index
    _foreach_copy_ _foreach_zero_ _amp_update_scale_ embedding linspace eye unfold im2col col2im
    pixel_shuffle pixel_unshuffle slice_scatter select_scatter as_strided_scatter scatter scatter_ scatter_add
    scatter_add_ type_as rand_like randn_like randint floor_divide expand_copy narrow_copy bitwise_and_ one_hot
    """
)
_REDUCTIONS: Final = _names(
    """
    sum mean amax amin max min argmax argmin any all norm linalg_vector_norm var std var_mean prod _foreach_norm
    _foreach_max _amp_foreach_non_finite_check_and_unscale_
    """
)

_BATCH_NORMS: Final = _names(
    """
    native_batch_norm native_batch_norm_backward _native_batch_norm_legit cudnn_batch_norm cudnn_batch_norm_backward
    batch_norm_backward
    """
)
_READ_PLAIN: Final = _names(
    """
    _softmax _softmax_backward_data _log_softmax _log_softmax_backward_data _safe_softmax native_layer_norm
    native_layer_norm_backward native_group_norm native_group_norm_backward
    """
)
"""Operators that read contiguous rows, and copy any other input (``expect_contiguous``)."""
_READ_DENSE: Final = _BATCH_NORMS | _names(
    """
    max_pool2d_with_indices max_pool2d_with_indices_backward max_pool3d_with_indices max_pool3d_with_indices_backward
    _adaptive_avg_pool2d _adaptive_avg_pool2d_backward _adaptive_avg_pool3d _adaptive_avg_pool3d_backward
    avg_pool2d avg_pool2d_backward avg_pool3d avg_pool3d_backward upsample_bilinear2d upsample_bilinear2d_backward
    upsample_nearest2d upsample_nearest2d_backward upsample_trilinear3d upsample_trilinear3d_backward
    _upsample_bilinear2d_aa _upsample_bilinear2d_aa_backward
    """
)
"""Operators that read channels first or last, as their input suggests, and copy any other input."""
_READS: Final = {
    **dict.fromkeys(_READ_PLAIN, (torch.contiguous_format,)),
    **dict.fromkeys(_READ_DENSE, (torch.contiguous_format, torch.channels_last)),
}


def workspace_of(operator: Any, arguments: ByName, result: Any) -> Workspace:
    """Return the workspace of one call."""
    name = name_of(operator)
    workspace = _constant_workspace(operator)
    if workspace is None and name in _RULES:
        workspace = _RULES[name](arguments(), result)
    if workspace is None:
        touched = tensors_in((dict(arguments()), result))
        return Workspace(0, sum(tensor.nbytes for tensor in touched), False)
    if name in _READS:
        workspace = workspace._replace(copied_bytes=_copies(tensors_in(dict(arguments())), _READS[name]))
    return workspace


@functools.cache
def name_of(operator: Any) -> str:
    """Return the operator's name without its overload, such as ``add_``."""
    return str(operator.overloadpacket).rpartition(".")[2]


@functools.cache
def _constant_workspace(operator: Any) -> Workspace | None:
    """Return a workspace that does not depend on the arguments; None if it does or if no rule covers the operator."""
    name = name_of(operator)
    if name in _RULES:
        return None
    if name in _REDUCTIONS or name in _BATCH_NORMS:
        return _REDUCTION
    if name in PRODUCTS or name in _NOTHING or name in _READS:
        return NOTHING
    if operator.namespace == "prim" or operator.is_view or torch.Tag.pointwise in operator.tags:
        return NOTHING
    if name.startswith("_foreach_"):  # their results are tensors, and counted as such
        return NOTHING
    return None


def host_copies_of(operator: Any, arguments: ByName, result: Any) -> Workspace:
    """Return the copies of one call on the CPU: oneDNN reorders the tensors of a convolution in blocks of channels."""
    if name_of(operator) not in ("convolution", "convolution_backward"):
        return NOTHING
    inputs = arguments()
    tensors = [inputs["input"], inputs["weight"], inputs.get("grad_output"), *tensors_in(result)]
    size = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    return Workspace(size, size, True)


Rule = Callable[[Any, ByName, Any], Workspace]
"""``rule(operator, its arguments by name, its result)``."""


class WorkspaceLog:
    """Collect what the operators of a recorded step need beside their tensors, in ``needs``.

    It is the callback ``on_operator`` of a ``CpuFakeMode`` and also the recorder's log, which skips operators that run
    outside the step.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._position: int | None = None
        self.needs: list[OperatorNeed] = []

    def step_begins(self) -> None:
        """Do nothing; other logs note here that the step begins."""

    @contextmanager
    def mark(self, number: int) -> Iterator[None]:
        """Note that operator ``number`` of the step runs inside."""
        self._position = number
        try:
            yield
        finally:
            self._position = None

    def __call__(self, operator: Any, arguments: ByName, result: Any) -> None:
        """Note the need of an operator that ran."""
        if self._position is None:
            return
        workspace = self._rule(operator, arguments, result)
        name = name_of(operator)
        if workspace.most_bytes or workspace.copied_bytes or name in PRODUCTS:
            in_backward = torch._C._current_autograd_node() is not None
            self.needs.append(OperatorNeed(self._position, name, workspace, name in PRODUCTS, in_backward))


def _copies(tensors: Iterable[torch.Tensor], formats: Iterable[torch.memory_format]) -> int:
    """Return the bytes of contiguous copies of the tensors that are dense in none of the formats."""
    return sum(
        tensor.numel() * tensor.itemsize
        for tensor in tensors
        if not any(_is_dense(tensor, layout) for layout in formats)
    )


def _is_dense(tensor: torch.Tensor, layout: torch.memory_format) -> bool:
    if layout is torch.contiguous_format:
        return tensor.is_contiguous()
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.ndim)
    return last is not None and tensor.is_contiguous(memory_format=last)


def _logsumexp(arguments: Arguments, result: Any) -> Workspace:
    """Hold all of ``exp(x - max)`` (``ReduceOps.cpp``)."""
    return _REDUCTION._replace(copied_bytes=arguments["self"].nbytes)


def _count_nonzero(arguments: Arguments, result: Any) -> Workspace:
    """Hold a mask of one byte per element."""
    return _REDUCTION._replace(copied_bytes=arguments["self"].numel())


def _permutation(arguments: Arguments, result: Any) -> Workspace:
    """Sort random keys with the numbers (``Randperm.cu``): keys, their order, numbers, scratch of the sort."""
    return Workspace(0, 4 * 8 * arguments["n"], True)


def _convolution(arguments: Arguments, result: Any) -> Workspace:
    """Convolve ``input``, with the result's bytes."""
    (output, *_) = tensors_in(result)
    return _convolved(arguments, [arguments["input"], arguments["weight"]], output, [output])


def _convolution_backward(arguments: Arguments, result: Any) -> Workspace:
    """Take the larger of two consecutive calls: the gradients of input and of weight."""
    inputs = [arguments["grad_output"], arguments["input"], arguments["weight"]]
    workspace = _convolved(arguments, inputs, arguments["grad_output"], [])
    has_products = arguments["weight"].shape[2:] == (1, 1) and arguments["output_mask"][1]
    if has_products and arguments["groups"] == 1 and _is_fp32_first(inputs):
        return workspace._replace(expected_bytes=arguments["input"].nbytes + arguments["weight"].nbytes)
    return workspace


def _convolved(
    arguments: Arguments, inputs: list[torch.Tensor], output: torch.Tensor, results: list[torch.Tensor]
) -> Workspace:
    """Return the transforms or copies that cuDNN makes of one call's tensors.

    It brings its inputs into one layout: channels last if one lies so (``cudnn_conv_suggest_memory_format``). In half
    precision it computes with channels last, and copies to it in its workspace; in fp32 it may. In fp32, 3 x 3
    convolutions are expected to go through Winograd's transforms, and larger kernels may go through Fourier's.
    """
    is_last = any(_is_dense(tensor, torch.channels_last) and not tensor.is_contiguous() for tensor in inputs)
    copies = _copies(inputs, (torch.channels_last if is_last else torch.contiguous_format,))
    size = sum(tensor.nbytes for tensor in [*inputs, *results])
    is_half = inputs[0].dtype in (torch.float16, torch.bfloat16)
    kernel = tuple(arguments["weight"].shape[2:])
    expected, most = 0 if is_last or not is_half else size, size
    if not _is_fp32_first(inputs):
        return Workspace(expected, most, True, copies)
    if _is_depthwise(arguments):
        most = 0
    elif kernel == (3, 3) and _can_transform(arguments):
        expected = _transformed(arguments, output, tile=6, numbers=6 * 6)
        most = expected + arguments["input"].nbytes + arguments["weight"].nbytes
    elif 5 <= max(kernel) <= min(*output.shape[2:], _FOURIER_TILE) and _can_transform(arguments):
        spectrum = 2 * _FOURIER_TILE * (_FOURIER_TILE // 2 + 1)  # the half that is not conjugate, in complex numbers
        most = max(size, _transformed(arguments, output, _FOURIER_TILE, spectrum))
    return Workspace(expected, most, True, copies)


def _is_fp32_first(images: list[torch.Tensor]) -> bool:
    return all(image.dtype == torch.float32 and image.ndim == 4 for image in images) and not any(
        _is_dense(image, torch.channels_last) and not image.is_contiguous() for image in images
    )


def _is_depthwise(arguments: Arguments) -> bool:
    """Return whether torch's own kernels compute it in fp32, which allocate nothing (``Convolution.cpp``)."""
    return bool(1 < arguments["groups"] == arguments["input"].shape[1]) and not arguments["transposed"]


def _can_transform(arguments: Arguments) -> bool:
    return arguments["groups"] == 1 and {*arguments["stride"], *arguments["dilation"]} == {1}


def _transformed(arguments: Arguments, output: torch.Tensor, tile: int, numbers: int) -> int:
    """Return the bytes of the transforms of input, output and weight, with ``numbers`` fp32 values per tile.

    A tile overlaps its neighbours by the kernel's size minus one.
    """
    weight: torch.Tensor = arguments["weight"]
    tiles = len(output)
    for side, kernel in zip(output.shape[2:], weight.shape[2:], strict=True):
        tiles *= -(-side // (tile - kernel + 1))
    channels = weight.shape[:2]
    return 4 * numbers * (tiles * sum(channels) + channels[0] * channels[1])


def _group_norm(arguments: Arguments, result: Any) -> Workspace:
    """Hold two fp32 factors per channel and sample (``group_norm_kernel.cu``)."""
    size = 2 * 4 * arguments["N"] * arguments["C"]
    return Workspace(size, 2 * size, True)


def _layer_norm_backward(arguments: Arguments, result: Any) -> Workspace:
    """Hold partial sums of the parameters' gradients, at most 256 rows per parameter."""
    features = arguments["input"].numel() // max(1, arguments["mean"].numel())
    return Workspace(0, 2 * 4 * 256 * features, True)


def _flash_backward(arguments: Arguments, result: Any) -> Workspace:
    """Sum the query's gradient in fp32 over rows rounded up to 128, with a row sum (``flash_api.cpp``)."""
    batch, heads, rows, head = arguments["query"].shape
    rows = -(-rows // 128) * 128
    size = 4 * batch * heads * rows * (-(-head // 32) * 32 + 1)
    return Workspace(size, 2 * size, True)


def _efficient_backward(arguments: Arguments, result: Any) -> Workspace:
    """Hold a row sum in fp32; half-precision keys and values may be summed in an fp32 buffer."""
    query = arguments["query"]
    rows = 4 * query.shape[0] * query.shape[1] * query.shape[2]
    return Workspace(rows, rows + 3 * 4 * query.numel(), True)


def _attention(arguments: Arguments, result: Any) -> Workspace:
    """Hold the parts of a long row, which may be split over blocks without dropout (``num_splits``)."""
    query = arguments["query"]
    return Workspace(0, 4 * query.numel() + 64 * KIB, True)


_RULES: Final[Mapping[str, Callable[[Arguments, Any], Workspace]]] = {
    "logsumexp": _logsumexp,
    "count_nonzero": _count_nonzero,
    "randperm": _permutation,
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "native_group_norm": _group_norm,
    "native_group_norm_backward": _group_norm,
    "native_layer_norm_backward": _layer_norm_backward,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_flash_attention_backward": _flash_backward,
    "_scaled_dot_product_efficient_attention_backward": _efficient_backward,
}

"""Gradients whose untraced formula looks at contents: of products, and of one element of a whole tensor.

Torch has two formulas for these. For every tensor that it takes for a subclass (:mod:`slr_bench.untraced`) it uses the
second one, which needs several times the memory. :func:`untraced_formulas` puts the first one in its place. Fake
tensors have no contents: no element of theirs counts as zero or as not a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch
from torch._subclasses.fake_tensor import FakeTensor

Tensor = torch.Tensor
Formula = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``formula(gradient, input, result)`` -> gradient of the input."""
_KEYS: Final = {"cpu": "AutogradCPU", "cuda": "AutogradCUDA"}


class _WithFormula(torch.autograd.Function):
    """Runs an operator below autograd, and a formula in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: Callable[[Tensor], Tensor], formula: Formula) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            result = operator(x)
        ctx.save_for_backward(x, result)
        ctx.formula = formula
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, result = ctx.saved_tensors
        return ctx.formula(gradients[0], x, result), None, None


@contextmanager
def untraced_formulas(device_type: str, as_cuda: bool) -> Iterator[None]:
    """Let autograd use the formulas of untraced tensors in this process, while open."""
    library: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    key = _KEYS.get(device_type, "")
    kernels = _PRODUCTS | ({} if as_cuda or device_type == "cuda" else _ELEMENTS) if key else {}
    try:
        for name, kernel in kernels.items():
            replaced = torch.library.get_kernel(f"aten::{name}", key)
            library.impl(name, partial(kernel, name, replaced), key, allow_override=True, with_keyset=True)
        yield
    finally:
        library._destroy()


def _run(name: str, replaced: Any, keys: Any, formula: Formula, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if not (x.requires_grad and torch.is_grad_enabled()) or torch._C._functorch.is_functorch_wrapped_tensor(x):
        result: Tensor = replaced.call_boxed(keys, x, *args, **kwargs)
        return result
    packet, _, overload = name.partition(".")
    operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
    with_formula: Tensor = _WithFormula.apply(x, lambda x: operator(x, *args, **kwargs), formula)
    return with_formula


def _prod(name: str, replaced: Any, keys: Any, x: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    return _run(name, replaced, keys, _prod_gradient, x, dtype=dtype)


def _prod_gradient(gradient: Tensor, x: Tensor, result: Tensor) -> Tensor:
    if x.ndim == 0:
        return gradient
    x = x.to(gradient.dtype)
    zeros = _nonzeros(x == 0)
    if zeros == 0:
        return gradient * (result / x).conj()
    if zeros > 1 and not torch.is_grad_enabled():
        return torch.zeros_like(x)
    return _with_zeros(gradient, x.contiguous().view(-1), 0).view_as(x)


def _nonzeros(mask: Tensor) -> int:
    return 0 if isinstance(mask, FakeTensor) else len(mask.nonzero())


def _prod_of_dimension(
    name: str, replaced: Any, keys: Any, x: Tensor, dim: int, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Tensor:
    def formula(gradient: Tensor, x: Tensor, result: Tensor) -> Tensor:
        if x.ndim == 0:
            return gradient
        x = x.to(gradient.dtype)
        if not keepdim:
            gradient, result = gradient.unsqueeze(dim), result.unsqueeze(dim)
        is_zero = x == 0
        zeros = is_zero.sum(dim, True)
        if _number(zeros.sum()) == 0:
            return gradient * (result / x).conj()
        return _with_zeros(gradient, x, dim)

    return _run(name, replaced, keys, formula, x, dim, keepdim, dtype=dtype)


def _number(count: Tensor) -> int:
    return 0 if isinstance(count, FakeTensor) else int(count)


def _with_zeros(gradient: Tensor, x: Tensor, dim: int) -> Tensor:
    """Return the gradient of a product from the products of the other factors (``prod_safe_zeros_backward``)."""
    if x.numel() == 0:
        return gradient.expand_as(x)
    if x.shape[dim] == 1:
        return gradient
    ones = torch.ones_like(x.narrow(dim, 0, 1))
    before = torch.cat([ones, x.narrow(dim, 0, x.shape[dim] - 1)], dim).cumprod(dim)
    after = torch.cat([ones, x.narrow(dim, 1, x.shape[dim] - 1).flip(dim)], dim).cumprod(dim).flip(dim)
    return gradient * (before * after).conj()


def _cumprod(name: str, replaced: Any, keys: Any, x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    def formula(gradient: Tensor, x: Tensor, result: Tensor) -> Tensor:
        gradient = gradient.to(x.dtype)
        if x.numel() <= 1 or x.shape[dim] == 1:
            return gradient
        product, is_zero = result.conj() * gradient, x == 0
        if _number(is_zero.any()) == 0:
            return _reversed_cumsum(product, dim).div(x.conj())
        del product, is_zero  # the operator makes them again
        general: Tensor = torch.ops.aten.cumprod_backward(gradient, x, dim, result)
        return general

    return _run(name, replaced, keys, formula, x, dim, dtype=dtype)


def _reversed_cumsum(x: Tensor, dim: int) -> Tensor:
    flipped = x.flip(dim)
    sums = flipped.cumsum(dim)
    return sums.flip(dim)


def _element(name: str, replaced: Any, keys: Any, x: Tensor) -> Tensor:
    return _run(name, replaced, keys, _evenly_distributed, x)


def _evenly_distributed(gradient: Tensor, x: Tensor, result: Tensor) -> Tensor:
    """Share the gradient among equal elements (``evenly_distribute_backward``)."""
    mask = x.isnan() if _number(result.isnan()) else x == result
    return gradient.new_zeros(x.shape, dtype=x.dtype).masked_fill_(mask, gradient / mask.sum())


Kernel = Callable[..., Tensor]
_PRODUCTS: Final[dict[str, Kernel]] = {"prod": _prod, "prod.dim_int": _prod_of_dimension, "cumprod": _cumprod}
_ELEMENTS: Final[dict[str, Kernel]] = dict.fromkeys(("max", "min", "median", "nanmedian"), _element)
"""On CUDA their gradient has one formula only."""

"""A convolution of cheaply prepared input that keeps the input, not the prepared copy, for backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Prepare = Callable[[Tensor], Tensor]


def conv_of_prepared(
    x_NCHW: Tensor, weight: Tensor, stride: int, padding: int, prepare: Prepare, adjoint: Prepare | None
) -> Tensor:
    """``conv2d(prepare(x), weight)``, bit for bit, in the type that autocast would use.

    Backward prepares ``x`` again (one more pass over it). Worth it where ``x`` is kept anyway or is smaller than what
    ``prepare`` makes of it. ``adjoint`` is the transpose of the linear ``prepare``; None where ``x`` needs no gradient.
    """
    return _ConvOfPrepared.apply(x_NCHW, computed_weight(weight), stride, padding, prepare, adjoint)


def computed_weight(weight: Tensor) -> Tensor:
    """``weight`` in the type that autocast would use; outside of an autograd function, so that autograd casts the
    gradient back.
    """
    kind = weight.device.type
    if torch.is_autocast_enabled(kind) and weight.dtype != torch.float64:
        return weight.to(torch.get_autocast_dtype(kind))
    return weight


class _ConvOfPrepared(torch.autograd.Function):
    """The input is cast to the weight's type here, not by autocast: that is off in backward."""

    @staticmethod
    def forward(
        ctx: Any, x_NCHW: Tensor, weight: Tensor, stride: int, padding: int, prepare: Prepare, adjoint: Prepare | None
    ) -> Tensor:
        ctx.save_for_backward(x_NCHW, weight)
        ctx.stride, ctx.padding, ctx.prepare, ctx.adjoint = stride, padding, prepare, adjoint
        return F.conv2d(prepare(x_NCHW).to(weight.dtype), weight, None, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        x_NCHW, weight = ctx.saved_tensors
        wants_x, wants_weight = ctx.needs_input_grad[:2]
        assert ctx.adjoint is not None or not wants_x, "without an adjoint the input gets no gradient"
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad_out,
            ctx.prepare(x_NCHW).to(weight.dtype),
            weight,
            None,
            [ctx.stride] * 2,
            [ctx.padding] * 2,
            [1, 1],
            False,
            [0, 0],
            1,
            [wants_x, wants_weight, False],
        )
        return ctx.adjoint(grad_x) if wants_x else None, grad_weight, None, None, None, None

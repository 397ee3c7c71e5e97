"""Recomputation in backward: of a part of a network (gradient checkpointing), or of a convolution's prepared input.

Gradient checkpointing here moves batch norm's running statistics once per step, not twice (pytorch#96136).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

Prepare = Callable[[Tensor], Tensor]


def recomputed(run: Callable[[Tensor], Tensor], x: Tensor, norms_in: Iterable[nn.Module], draws: bool = True) -> Tensor:
    """Return ``run(x)`` and keep only ``x``; backward computes again what it needs of the inside.

    ``norms_in`` are the modules whose batch norms ``run`` passes through. During recomputation they write to copies of
    their statistics. The random state is kept, so dropout inside draws the same mask. It takes 5 KiB of host memory per
    call; ``draws=False`` saves them for a ``run`` that draws no random numbers.

    Bytes: ``x`` is kept instead of all that ``run`` saves. In backward all of it exists, for one ``run`` at a time.
    Residual blocks at the reference shape, traced: 1,094 MB per step instead of 1,778 MB. Time: the forward FLOPs of
    ``run`` once more, a third of a whole step where backward takes twice the time of forward.
    """
    if not torch.is_grad_enabled():
        return run(x)
    norms = [norm for module in norms_in for norm in module.modules() if isinstance(norm, _BatchNorm)]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _scratch_statistics(norms)

    return checkpoint(run, x, use_reentrant=False, context_fn=contexts, preserve_rng_state=draws)


@contextmanager
def _scratch_statistics(norms: list[_BatchNorm]) -> Iterator[None]:
    """Let batch norms write to copies of their buffers (C floats each), and put the buffers back at the end.

    With ``track_running_stats`` switched off instead, forward would save fewer tensors than the first time, which
    checkpoint refuses. The ``finally`` also runs when checkpoint stops the recomputation early with an exception.
    """
    kept = [dict(norm._buffers) for norm in norms]
    for norm, buffers in zip(norms, kept, strict=True):
        norm._buffers.update({name: buffer.clone() for name, buffer in buffers.items() if buffer is not None})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)


def conv_of_prepared(
    x_NCHW: Tensor, weight: Tensor, stride: int, padding: int, prepare: Prepare, adjoint: Prepare | None
) -> Tensor:
    """Return ``conv2d(prepare(x), weight)``, bit for bit, in the type that autocast would use.

    Keeps ``x`` for backward and prepares it there again, which is one more pass over it. This pays off where ``x`` is
    kept anyway, or is smaller than ``prepare(x)``. ``adjoint`` is the transpose of the linear ``prepare``; it is None
    if ``x`` needs no gradient.
    """
    return _ConvOfPrepared.apply(x_NCHW, computed_weight(weight), stride, padding, prepare, adjoint)


def computed_weight(weight: Tensor) -> Tensor:
    """Return ``weight`` in the type that autocast would use.

    Call it outside of an autograd function, so that autograd casts the gradient back.
    """
    kind = weight.device.type
    if torch.is_autocast_enabled(kind) and weight.dtype != torch.float64:
        return weight.to(torch.get_autocast_dtype(kind))
    return weight


class _ConvOfPrepared(torch.autograd.Function):
    """Convolution that casts its input to the weight's type itself, because autocast is off in backward."""

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
        assert ctx.adjoint is not None or not wants_x, "the input needs a gradient, which requires an adjoint"
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

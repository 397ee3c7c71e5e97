"""The stem of a residual network, computed one part of the frames at a time: convolution, batch norm, pooling, ReLU.

The stem holds the largest tensors of a network: 1.5 MiB per frame at 224 x 224 and 64 channels in bf16, several times
in backward. Split into parts, it keeps the pooled frames (0.38 MiB), one byte per output (0.19 MiB) and the input
frames. In return the convolution (6 % of the work of a ResNet-18) runs four times per step instead of once.

Batch statistics cover all frames. A first pass over the parts collects them (Chan, Golub and LeVeque, "Updating
formulae and a pairwise algorithm for computing sample variances", 1979), a second pass normalises. Backward also takes
two passes, because the gradient before a batch norm needs two sums over all frames (Ioffe and Szegedy, 2015).

N frame, C channel, H height, W width (after the convolution); P height, Q width (after the pooling)
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from models.layers.pooled_relu import Pooled, PooledReLU, Unpooling, layout_of, parts_of
from models.layers.recompute import Prepare, computed_weight, recomputed

StemKind = Literal["whole", "split"]

PARTS = 32


def split_stem(frames_NCHW: Tensor, conv: nn.Conv2d, norm: nn.Module, pool: PooledReLU, prepare: Prepare) -> Tensor:
    """Return ``pool(norm(conv(prepare(frames))))`` as the whole stem computes it, except for the order of sums.

    ``conv`` has no bias and square strides; ``frames_NCHW`` get no gradient. If frames are normalised independently
    (group norm, or a batch norm that does not train), each part is computed alone, and once more in backward.
    """
    if isinstance(norm, _BatchNorm) and norm.training:
        weight = computed_weight(conv.weight)
        return _SplitStem.apply(frames_NCHW, weight, norm.weight, norm.bias, conv, norm, prepare)

    def run(part_NCHW: Tensor) -> Tensor:
        return pool(norm(conv(prepare(part_NCHW))))

    pieces = [recomputed(run, frames_NCHW[part], [norm], draws=False) for part in parts_of(len(frames_NCHW), PARTS)]
    return torch.cat(pieces)


class _Statistics(NamedTuple):
    mean_C: Tensor
    variance_C: Tensor
    """Biased variance."""
    count: int
    """Numbers per channel."""


class _SplitStem(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        frames_NCHW: Tensor,
        weight: Tensor,
        scale_C: Tensor,
        shift_C: Tensor,
        conv: nn.Conv2d,
        norm: _BatchNorm,
        prepare: Prepare,
    ) -> Tensor:
        def run(part: slice) -> Tensor:
            return F.conv2d(prepare(frames_NCHW[part]).to(weight.dtype), weight, None, conv.stride, conv.padding)

        parts = list(parts_of(len(frames_NCHW), PARTS))
        statistics = []
        for part in parts:
            x_NCHW = run(part)
            plane, layout = (x_NCHW.shape[2], x_NCHW.shape[3]), layout_of(x_NCHW)
            statistics.append(_statistics(x_NCHW))
        total = _combined(statistics)
        _update_running_statistics(norm, total)
        pooled = Pooled.empty(len(frames_NCHW), len(weight), plane, weight.dtype, weight.device, layout)
        for part in parts:
            x_NCHW = run(part)
            pooled.fill(part, F.batch_norm(x_NCHW, total.mean_C, total.variance_C, scale_C, shift_C, eps=norm.eps))
        ctx.save_for_backward(frames_NCHW, weight, scale_C, pooled.offset_NCPQ, total.mean_C, total.variance_C)
        ctx.plane, ctx.parts, ctx.conv, ctx.prepare, ctx.eps = plane, parts, conv, prepare, norm.eps
        return pooled.out_NCPQ

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NCPQ: Tensor) -> tuple[Tensor | None, ...]:
        frames_NCHW, weight, scale_C, offset_NCPQ, mean_C, variance_C = ctx.saved_tensors
        stride, padding = list(ctx.conv.stride), list(ctx.conv.padding)
        unpool = Unpooling(offset_NCPQ, ctx.plane)
        rate_C = (variance_C + ctx.eps).rsqrt()

        def inputs(part: slice) -> tuple[Tensor, Tensor, Tensor]:
            """Return prepared frames, normalised numbers before scale and shift, and the gradient after these."""
            prepared_NCHW = ctx.prepare(frames_NCHW[part]).to(weight.dtype)
            x_NCHW = F.conv2d(prepared_NCHW, weight, None, stride, padding)
            grad_NCHW = unpool(part, grad_NCPQ, like_NCHW=x_NCHW).to(rate_C.dtype)
            x_NCHW = x_NCHW.to(rate_C.dtype)
            return prepared_NCHW, x_NCHW.sub_(_plane(mean_C)).mul_(_plane(rate_C)), grad_NCHW

        grad_scale_C, grad_shift_C = torch.zeros_like(rate_C), torch.zeros_like(rate_C)
        for part in ctx.parts:
            _, x_NCHW, grad_NCHW = inputs(part)
            grad_shift_C += grad_NCHW.sum((0, 2, 3))
            grad_scale_C += x_NCHW.mul_(grad_NCHW).sum((0, 2, 3))
            del x_NCHW, grad_NCHW
        grad_weight = torch.zeros_like(weight, dtype=rate_C.dtype)
        count = len(frames_NCHW) * ctx.plane[0] * ctx.plane[1]
        for part in ctx.parts:
            prepared_NCHW, x_NCHW, grad_NCHW = inputs(part)
            grad_NCHW.sub_(_plane(grad_shift_C / count)).sub_(x_NCHW.mul_(_plane(grad_scale_C / count)))
            del x_NCHW
            grad_NCHW = grad_NCHW.mul_(_plane(scale_C * rate_C)).to(weight.dtype)
            grad_weight += torch.ops.aten.convolution_backward(
                grad_NCHW, prepared_NCHW, weight, None, stride, padding, [1, 1], False, [0, 0], 1, [False, True, False]
            )[1]
            del prepared_NCHW, grad_NCHW
        return None, grad_weight.to(weight.dtype), grad_scale_C, grad_shift_C, None, None, None


def _plane(values_C: Tensor) -> Tensor:
    return values_C.view(-1, 1, 1)


def _statistics(x_NCHW: Tensor) -> _Statistics:
    x_NCHW = x_NCHW.to(torch.promote_types(x_NCHW.dtype, torch.float32))
    variance_C, mean_C = torch.var_mean(x_NCHW, (0, 2, 3), correction=0)
    return _Statistics(mean_C, variance_C, x_NCHW.numel() // x_NCHW.shape[1])


def _combined(parts: list[_Statistics]) -> _Statistics:
    count = sum(part.count for part in parts)
    mean_C, spread_C = torch.zeros_like(parts[0].mean_C), torch.zeros_like(parts[0].mean_C)
    for part in parts:
        mean_C += part.mean_C * (part.count / count)
    for part in parts:
        spread_C += (part.variance_C + (part.mean_C - mean_C).square()) * (part.count / count)
    return _Statistics(mean_C, spread_C, count)


def _update_running_statistics(norm: _BatchNorm, total: _Statistics) -> None:
    """Move the running statistics as torch's batch norm does, once per forward pass."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    assert norm.momentum is not None, "a cumulative average needs the number of batches on the host"
    unbiased_C = total.variance_C * (total.count / max(1, total.count - 1))
    norm.running_mean.lerp_(total.mean_C.to(norm.running_mean.dtype), norm.momentum)
    norm.running_var.lerp_(unbiased_C.to(norm.running_var.dtype), norm.momentum)

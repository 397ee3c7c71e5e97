"""Max pooling and ReLU that keep one byte an output for backward: which of the window's nine places won.

N frame, C channel, H height, W width (of the input); P height, Q width (of the output)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

PoolKind = Literal["plain", "memory_efficient"]

WINDOW, STRIDE, PADDING = 3, 2, 1
PARTS = 16  # the 8-byte indices of torch's own operator exist for a sixteenth of the frames at a time
_CLOSED = WINDOW * WINDOW  # the place of a window whose greatest number the ReLU stops


class PooledReLU(nn.Module):
    """``relu(max_pool2d(x, 3, stride=2, padding=1))``, the end of a residual network's stem.

    Pooled before the ReLU: the same values and gradients as after it (both are monotone), on a quarter of the numbers.
    ``plain`` keeps the input and int64 indices: at 64 x 112 x 112 in bf16 1.5 + 1.5 MiB a frame, and its output.
    ``memory_efficient`` keeps a byte an output, 0.19 MiB a frame, and gives the same numbers to the bit.
    """

    def __init__(self, kind: PoolKind) -> None:
        super().__init__()
        self.kind = kind
        self.splits_work = kind == "memory_efficient"  # said to the tracer: the floor is that of a part

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if self.kind == "plain":
            return F.relu(F.max_pool2d(x_NCHW, WINDOW, STRIDE, PADDING), inplace=True)
        return _PooledReLU.apply(x_NCHW)


class _PooledReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NCHW: Tensor) -> Tensor:
        frames, channels, height, width = x_NCHW.shape
        shape = (frames, channels, _pooled(height), _pooled(width))
        ctx.plane, ctx.layout = (height, width), _layout(x_NCHW)
        out_NCPQ = torch.empty(shape, dtype=x_NCHW.dtype, device=x_NCHW.device, memory_format=ctx.layout)
        place_NCPQ = torch.empty(shape, dtype=torch.uint8, device=x_NCHW.device, memory_format=ctx.layout)
        at = _geometry(*ctx.plane, x_NCHW.device)
        for part in _parts(frames):
            top_NCPQ, index_NCPQ = F.max_pool2d_with_indices(x_NCHW[part], WINDOW, STRIDE, PADDING)
            place_NCPQ[part] = at.place_of_step[index_NCPQ.sub_(at.corner_PQ)]
            place_NCPQ[part].masked_fill_(top_NCPQ <= 0, _CLOSED)
            out_NCPQ[part] = top_NCPQ.relu_()
        ctx.save_for_backward(place_NCPQ)
        return out_NCPQ

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NCPQ: Tensor) -> Tensor:
        (place_NCPQ,) = ctx.saved_tensors
        shape, device = (*place_NCPQ.shape[:2], *ctx.plane), grad_NCPQ.device
        grad_NCHW = torch.empty(shape, dtype=grad_NCPQ.dtype, device=device, memory_format=ctx.layout)
        at = _geometry(*ctx.plane, device)
        for part in _parts(len(grad_NCHW)):
            place = place_NCPQ[part]
            index = at.step_of_place[place.int()].add_(at.corner_PQ)
            opened = grad_NCPQ[part].masked_fill(place == _CLOSED, 0)
            grad_NCHW[part] = torch.ops.aten.max_pool2d_with_indices_backward(
                opened, grad_NCHW[part], [WINDOW] * 2, [STRIDE] * 2, [PADDING] * 2, [1, 1], False, index
            )
        return grad_NCHW


class _Geometry(NamedTuple):
    """Torch numbers the pixels of a plane row by row; a step is a pixel's number less that of its window's corner."""

    corner_PQ: Tensor
    place_of_step: Tensor
    step_of_place: Tensor
    """The last one, for ``_CLOSED``, is the middle of the window, which never lies in the padding."""


def _geometry(height: int, width: int, device: torch.device) -> _Geometry:
    row_P = torch.arange(_pooled(height), device=device) * STRIDE - PADDING
    column_Q = torch.arange(_pooled(width), device=device) * STRIDE - PADDING
    near = torch.arange(WINDOW, device=device)
    steps = (near.unsqueeze(1) * width + near).flatten()
    place_of_step = torch.zeros(steps.numel() + WINDOW * width, dtype=torch.uint8, device=device)
    place_of_step[steps] = torch.arange(_CLOSED, dtype=torch.uint8, device=device)
    middle = steps[_CLOSED // 2 : _CLOSED // 2 + 1]
    return _Geometry(row_P.unsqueeze(1) * width + column_Q, place_of_step, torch.cat([steps, middle]))


def _pooled(extent: int) -> int:
    return (extent + 2 * PADDING - WINDOW) // STRIDE + 1


def _parts(frames: int) -> Iterator[slice]:
    size = -(-frames // PARTS)
    return (slice(start, start + size) for start in range(0, frames, size))


def _layout(x_NCHW: Tensor) -> torch.memory_format:
    nhwc = x_NCHW.is_contiguous(memory_format=torch.channels_last) and not x_NCHW.is_contiguous()
    return torch.channels_last if nhwc else torch.contiguous_format

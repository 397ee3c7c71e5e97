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
        ctx.plane, ctx.layout = (height, width), layout_of(x_NCHW)
        pooled = Pooled.empty(frames, channels, ctx.plane, x_NCHW.dtype, x_NCHW.device, ctx.layout)
        for part in parts_of(frames, PARTS):
            pooled.fill(part, x_NCHW[part])
        ctx.save_for_backward(pooled.place_NCPQ)
        return pooled.out_NCPQ

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NCPQ: Tensor) -> Tensor:
        (place_NCPQ,) = ctx.saved_tensors
        shape, device = (*place_NCPQ.shape[:2], *ctx.plane), grad_NCPQ.device
        grad_NCHW = torch.empty(shape, dtype=grad_NCPQ.dtype, device=device, memory_format=ctx.layout)
        unpool = Unpooling(place_NCPQ, ctx.plane)
        for part in parts_of(len(grad_NCHW), PARTS):
            grad_NCHW[part] = unpool(part, grad_NCPQ, like_NCHW=grad_NCHW[part])
        return grad_NCHW


class Pooled(NamedTuple):
    """Pooled frames, filled a part of the frames at a time, and the place that won in each window."""

    out_NCPQ: Tensor
    place_NCPQ: Tensor
    """``uint8``: 0 to 8 row by row, 9 where the ReLU stops the greatest number."""
    geometry: _Geometry

    @classmethod
    def empty(
        cls,
        frames: int,
        channels: int,
        plane: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
        layout: torch.memory_format,
    ) -> Pooled:
        """Of ``frames`` frames that are ``plane`` high and wide before."""
        shape = (frames, channels, _pooled(plane[0]), _pooled(plane[1]))
        out_NCPQ = torch.empty(shape, dtype=dtype, device=device, memory_format=layout)
        place_NCPQ = torch.empty(shape, dtype=torch.uint8, device=device, memory_format=layout)
        return cls(out_NCPQ, place_NCPQ, _geometry(*plane, device))

    def fill(self, part: slice, x_NCHW: Tensor) -> None:
        """Pool the frames ``x_NCHW``, which are ``part`` of all."""
        top_NCPQ, index_NCPQ = F.max_pool2d_with_indices(x_NCHW, WINDOW, STRIDE, PADDING)
        self.place_NCPQ[part] = self.geometry.place_of_step[index_NCPQ.sub_(self.geometry.corner_PQ)]
        self.place_NCPQ[part].masked_fill_(top_NCPQ <= 0, _CLOSED)
        self.out_NCPQ[part] = top_NCPQ.relu_()


class Unpooling:
    """The gradient before pooling and ReLU, of a part of the frames at a time."""

    def __init__(self, place_NCPQ: Tensor, plane: tuple[int, int]) -> None:
        self._place_NCPQ = place_NCPQ
        self._geometry = _geometry(*plane, place_NCPQ.device)

    def __call__(self, part: slice, grad_NCPQ: Tensor, like_NCHW: Tensor) -> Tensor:
        """Of all the frames' ``grad_NCPQ`` that of ``part``; ``like_NCHW`` has the result's shape."""
        place = self._place_NCPQ[part]
        index = self._geometry.step_of_place[place.int()].add_(self._geometry.corner_PQ)
        opened = grad_NCPQ[part].masked_fill(place == _CLOSED, 0)
        return torch.ops.aten.max_pool2d_with_indices_backward(
            opened, like_NCHW, [WINDOW] * 2, [STRIDE] * 2, [PADDING] * 2, [1, 1], False, index
        )


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


def parts_of(frames: int, parts: int) -> Iterator[slice]:
    """At most ``parts`` nearly equal runs of frames."""
    size = -(-frames // parts)
    return (slice(start, start + size) for start in range(0, frames, size))


def layout_of(x_NCHW: Tensor) -> torch.memory_format:
    """NHWC or the plain one."""
    nhwc = x_NCHW.is_contiguous(memory_format=torch.channels_last) and not x_NCHW.is_contiguous()
    return torch.channels_last if nhwc else torch.contiguous_format

"""Max pooling and ReLU that keep one byte per output for backward: the position in its window that won.

N frame, C channel, H height, W width (of the input); P height, Q width (of the output)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

PoolKind = Literal["plain", "memory_efficient"]

WINDOW, STRIDE, PADDING = 3, 2, 1
PARTS = 16  # the 8-byte indices of torch's own operator exist for only a sixteenth of the frames at a time
_BYTE: Final = torch.iinfo(torch.uint8).max


class PooledReLU(nn.Module):
    """``relu(max_pool2d(x, 3, stride=2, padding=1))``, the end of a residual network's stem.

    It pools before the ReLU. Both are monotone, so values and gradients are the same, on a quarter of the numbers.
    ``plain`` keeps the input, int64 indices and its output: at 64 x 112 x 112 in bf16 1.5 + 1.5 MiB per frame.
    ``memory_efficient`` keeps one byte per output (0.19 MiB per frame), two on planes more than 126 wide, and gives the
    same numbers bit for bit.
    """

    def __init__(self, kind: PoolKind) -> None:
        super().__init__()
        self.kind = kind
        self.splits_work = kind == "memory_efficient"  # read by the tracer: the operator floor is that of a part

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
        ctx.save_for_backward(pooled.offset_NCPQ)
        return pooled.out_NCPQ

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NCPQ: Tensor) -> Tensor:
        (offset_NCPQ,) = ctx.saved_tensors
        shape, device = (*offset_NCPQ.shape[:2], *ctx.plane), grad_NCPQ.device
        grad_NCHW = torch.empty(shape, dtype=grad_NCPQ.dtype, device=device, memory_format=ctx.layout)
        unpool = Unpooling(offset_NCPQ, ctx.plane)
        for part in parts_of(len(grad_NCHW), PARTS):
            grad_NCHW[part] = unpool(part, grad_NCPQ, like_NCHW=grad_NCHW[part])
        return grad_NCHW


class Pooled(NamedTuple):
    """Pooled frames, filled one part of the frames at a time, and the position that won in each window."""

    out_NCPQ: Tensor
    offset_NCPQ: Tensor
    """Pixels from the window's corner to its greatest number, row by row; the type's maximum if the ReLU zeroes it."""
    corner_PQ: Tensor

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
        """Return empty tensors for ``frames`` frames of height and width ``plane`` before pooling."""
        shape = (frames, channels, _pooled(plane[0]), _pooled(plane[1]))
        out_NCPQ = torch.empty(shape, dtype=dtype, device=device, memory_format=layout)
        farthest = (WINDOW - 1) * (plane[1] + 1)
        kind = torch.uint8 if farthest < _BYTE else torch.int16
        offset_NCPQ = torch.empty(shape, dtype=kind, device=device, memory_format=layout)
        return cls(out_NCPQ, offset_NCPQ, _corners(*plane, device))

    def fill(self, part: slice, x_NCHW: Tensor) -> None:
        """Pool the frames ``x_NCHW``, which are ``part`` of all frames.

        With channels last a processor compares many numbers at once, in a fifth of the time, including the copy.
        """
        last_NCHW = x_NCHW.contiguous(memory_format=torch.channels_last)
        top_NCPQ, index_NCPQ = F.max_pool2d_with_indices(last_NCHW, WINDOW, STRIDE, PADDING)
        del last_NCHW
        self.offset_NCPQ[part] = index_NCPQ.sub_(self.corner_PQ)
        self.offset_NCPQ[part].masked_fill_(top_NCPQ <= 0, _closed(self.offset_NCPQ))
        self.out_NCPQ[part] = top_NCPQ.relu_()


class Unpooling:
    """Computes the gradient before pooling and ReLU, one part of the frames at a time."""

    def __init__(self, offset_NCPQ: Tensor, plane: tuple[int, int]) -> None:
        self._offset_NCPQ = offset_NCPQ
        self._corner_PQ = _corners(*plane, offset_NCPQ.device)
        self._middle = (WINDOW // 2) * (plane[1] + 1)  # never lies in the padding

    def __call__(self, part: slice, grad_NCPQ: Tensor, like_NCHW: Tensor) -> Tensor:
        """Return the gradient of ``part`` from ``grad_NCPQ`` of all frames; ``like_NCHW`` has the result's shape."""
        offset = self._offset_NCPQ[part]
        closed = offset == _closed(offset)
        index = offset.long().masked_fill_(closed, self._middle).add_(self._corner_PQ)
        opened = grad_NCPQ[part].masked_fill(closed, 0)
        del closed
        return torch.ops.aten.max_pool2d_with_indices_backward(
            opened, like_NCHW, [WINDOW] * 2, [STRIDE] * 2, [PADDING] * 2, [1, 1], False, index
        )


def _closed(offset_NCPQ: Tensor) -> int:
    """Return the offset that marks a window whose greatest number the ReLU sets to zero."""
    return torch.iinfo(offset_NCPQ.dtype).max


def _corners(height: int, width: int, device: torch.device) -> Tensor:
    """Return the pixel number of each window's corner, counted row by row; it may lie in the padding."""
    row_P = torch.arange(_pooled(height), device=device) * STRIDE - PADDING
    column_Q = torch.arange(_pooled(width), device=device) * STRIDE - PADDING
    return row_P.unsqueeze(1) * width + column_Q


def _pooled(extent: int) -> int:
    return (extent + 2 * PADDING - WINDOW) // STRIDE + 1


def parts_of(frames: int, parts: int) -> Iterator[slice]:
    """Return at most ``parts`` runs of frames of nearly equal length."""
    size = -(-frames // parts)
    return (slice(start, start + size) for start in range(0, frames, size))


def layout_of(x_NCHW: Tensor) -> torch.memory_format:
    """Return the memory format of the tensor: NHWC or the contiguous one."""
    nhwc = x_NCHW.is_contiguous(memory_format=torch.channels_last) and not x_NCHW.is_contiguous()
    return torch.channels_last if nhwc else torch.contiguous_format

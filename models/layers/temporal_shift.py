"""Temporal shift (TSM, Lin et al., ICCV 2019): an eighth of the channels looks one frame ahead, an eighth one back.

N = B x T frames, B clip, T frame, C channel, H height, W width
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from models.layers.prepared_conv import conv_of_prepared

SHARE_SHIFTED_EACH_WAY = 8  # one channel in eight from the next frame, one in eight from the last

ShiftKind = Literal["none", "plain", "memory_efficient"]


def shift_frames(x_NCHW: Tensor, num_frames: int, reverse: bool = False) -> Tensor:
    """Move the first eighth of the channels one frame back and the second one forth; clip edges are filled with zeros.

    Out of place, always: the unshifted tensor is the block's residual. ``reverse`` swaps the directions, which makes
    the function its own adjoint: ``<shift(x), y> == <x, shift(y, reverse=True)>``.
    """
    x_BTCHW = x_NCHW.unflatten(0, (-1, num_frames))
    fold = x_NCHW.shape[1] // SHARE_SHIFTED_EACH_WAY
    first, second = slice(0, fold), slice(fold, 2 * fold)
    from_next, from_last = (second, first) if reverse else (first, second)
    out_BTCHW = torch.zeros_like(x_BTCHW)
    out_BTCHW[:, :-1, from_next] = x_BTCHW[:, 1:, from_next]
    out_BTCHW[:, 1:, from_last] = x_BTCHW[:, :-1, from_last]
    out_BTCHW[:, :, 2 * fold :] = x_BTCHW[:, :, 2 * fold :]
    return out_BTCHW.flatten(0, 1)


class ShiftedConv2d(nn.Conv2d):
    """A 3 x 3 convolution without bias that looks at the shifted frames; parameters as ``nn.Conv2d``.

    ``kind="memory_efficient"`` gives the outputs and gradients of ``plain``, but keeps the unshifted input: that is the
    output of the ReLU before, which the ReLU keeps anyway. One activation less a block for one more copy in backward.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, num_frames: int, kind: ShiftKind) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.num_frames = num_frames
        self.kind = kind

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if self.kind == "none":
            return super().forward(x_NCHW)
        if self.kind == "plain":
            return super().forward(shift_frames(x_NCHW, self.num_frames))
        return conv_of_prepared(
            x_NCHW,
            self.weight,
            self.stride[0],
            self.padding[0],
            prepare=partial(shift_frames, num_frames=self.num_frames),
            adjoint=partial(shift_frames, num_frames=self.num_frames, reverse=True),
        )

"""Temporal shift (TSM, Lin et al., ICCV 2019): an eighth of the channels looks one frame ahead, an eighth one back.

The causal form only looks back, with the first eighth: the authors' online TSM (mit-han-lab/temporal-shift-module).

N = B x T frames, B clip, T frame, C channel, F channel of the first eighth, H height, W width
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from models.layers.prepared_conv import conv_of_prepared
from models.layers.recent import Recent

SHARE_SHIFTED_EACH_WAY = 8  # one channel in eight from the next frame, one in eight from the last

ShiftKind = Literal["none", "plain", "memory_efficient"]


def shift_frames(x_NCHW: Tensor, num_frames: int, reverse: bool = False, causal: bool = False) -> Tensor:
    """Move the first eighth of the channels one frame back and the second one forth; clip edges are filled with zeros.

    ``causal`` moves only the first one, and forth. Out of place, always: the unshifted tensor is the block's residual.
    ``reverse`` swaps the directions, which makes the function its own adjoint:
    ``<shift(x), y> == <x, shift(y, reverse=True)>``.
    """
    x_BTCHW = x_NCHW.unflatten(0, (-1, num_frames))
    fold = x_NCHW.shape[1] // SHARE_SHIFTED_EACH_WAY
    first, second = slice(0, fold), slice(fold, 2 * fold)
    from_last, from_next = ([first], []) if causal else ([second], [first])
    if reverse:
        from_last, from_next = from_next, from_last
    out_BTCHW = torch.zeros_like(x_BTCHW)
    for channels in from_next:
        out_BTCHW[:, :-1, channels] = x_BTCHW[:, 1:, channels]
    for channels in from_last:
        out_BTCHW[:, 1:, channels] = x_BTCHW[:, :-1, channels]
    still = slice(fold if causal else 2 * fold, None)
    out_BTCHW[:, :, still] = x_BTCHW[:, :, still]
    return out_BTCHW.flatten(0, 1)


class ShiftedConv2d(nn.Conv2d):
    """A 3 x 3 convolution without bias that looks at the shifted frames; parameters as ``nn.Conv2d``.

    ``kind="memory_efficient"`` gives the outputs and gradients of ``plain``, but keeps the unshifted input: that is the
    output of the ReLU before, which the ReLU keeps anyway. One activation (B x T x C x H x W numbers) less a block for
    one more copy in backward.
    """

    past: Recent | None = None
    """The last frame's first eighth, while a stream runs through: its next frames come in without the earlier ones."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        num_frames: int,
        kind: ShiftKind,
        causal: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.num_frames = num_frames
        """Of the clips that come next."""
        self.kind = kind
        self.causal = causal

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if self.kind == "none":
            return super().forward(x_NCHW)
        if self.past is not None:
            return super().forward(self._shifted_in_stream(x_NCHW, self.past))
        shift = partial(shift_frames, num_frames=self.num_frames, causal=self.causal)
        if self.kind == "plain":
            return super().forward(shift(x_NCHW))
        return conv_of_prepared(
            x_NCHW, self.weight, self.stride[0], self.padding[0], prepare=shift, adjoint=partial(shift, reverse=True)
        )

    def _shifted_in_stream(self, x_TCHW: Tensor, past: Recent) -> Tensor:
        fold = x_TCHW.shape[1] // SHARE_SHIFTED_EACH_WAY
        moved_TFHW = past.followed_by(x_TCHW[:, :fold])[:-1]
        return torch.cat([moved_TFHW, x_TCHW[:, fold:]], 1)

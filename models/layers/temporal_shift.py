"""Temporal shift (TSM, Lin et al., ICCV 2019): an eighth of the channels reads the next frame, an eighth the last one.

The causal form reads only the last frame, with the first eighth of the channels: the authors' online TSM
(mit-han-lab/temporal-shift-module). A stream keeps those channels in a :class:`FrameHistory`.

N = B x T frames, B clip, T frame, C channel, F channel of the first eighth, H height, W width
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from models.layers.recompute import conv_of_prepared

SHARE_SHIFTED_EACH_WAY = 8  # one channel in eight from the next frame, one in eight from the last

ShiftKind = Literal["none", "plain", "memory_efficient"]


def shift_frames(x_NCHW: Tensor, num_frames: int, reverse: bool = False, causal: bool = False) -> Tensor:
    """Return the frames with the first eighth of the channels moved one frame back and the second one forward.

    Zeros fill the edges of a clip. ``causal`` moves only the first eighth, and forward. Never works in place, because
    the unshifted tensor is the block's residual. ``reverse`` swaps the directions, which gives the adjoint:
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


class FrameHistory:
    """The last ``length`` frames of a stream along ``dim``, with zeros before the first frame.

    They stay in one tensor while the stream runs, so that memory does not depend on how many frames have passed.
    """

    def __init__(self, length: int, dim: int) -> None:
        self.length = length
        self.dim = dim
        self.frames: Tensor | None = None
        """The frames; None before the first one, whose shape and type determine the allocation."""

    def append(self, new: Tensor) -> Tensor:
        """Return the kept frames followed by ``new``, and keep the last ``length`` of them."""
        if self.frames is None:
            shape = list(new.shape)
            shape[self.dim] = self.length
            self.frames = new.new_zeros(shape)
        frames = torch.cat([self.frames, new], self.dim)
        self.frames.copy_(frames.narrow(self.dim, new.shape[self.dim], self.length))
        return frames

    def clear(self) -> None:
        """Return to the state before the first frame, in the same storage."""
        if self.frames is not None:
            self.frames.zero_()


class ShiftedConv2d(nn.Conv2d):
    """A 3 x 3 convolution without bias over the shifted frames; parameters as in ``nn.Conv2d``.

    ``kind="memory_efficient"`` gives the outputs and gradients of ``plain``, but keeps the unshifted input. That is the
    output of the previous ReLU, which the ReLU keeps anyway. It saves one activation (B x T x C x H x W numbers) per
    block for one more copy in backward.
    """

    history: FrameHistory | None = None
    """The last frame's first eighth of the channels, while a stream passes its frames without the earlier ones."""

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
        """Number of frames of the next clips."""
        self.kind = kind
        self.causal = causal

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if self.kind == "none":
            return super().forward(x_NCHW)
        if self.history is not None:
            return super().forward(self._shifted_in_stream(x_NCHW, self.history))
        shift = partial(shift_frames, num_frames=self.num_frames, causal=self.causal)
        if self.kind == "plain":
            return super().forward(shift(x_NCHW))
        return conv_of_prepared(
            x_NCHW, self.weight, self.stride[0], self.padding[0], prepare=shift, adjoint=partial(shift, reverse=True)
        )

    def _shifted_in_stream(self, x_TCHW: Tensor, history: FrameHistory) -> Tensor:
        fold = x_TCHW.shape[1] // SHARE_SHIFTED_EACH_WAY
        moved_TFHW = history.append(x_TCHW[:, :fold])[:-1]
        return torch.cat([moved_TFHW, x_TCHW[:, fold:]], 1)

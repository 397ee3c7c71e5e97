"""Temporal shift and temporal pyramid pooling.

The shift (TSM, Lin et al., ICCV 2019) lets an eighth of the channels read the next frame and an eighth the last one.
The causal form reads only the last frame, with the first eighth of the channels: the authors' online TSM
(mit-han-lab/temporal-shift-module). A stream keeps those channels in a :class:`FrameHistory`. The pyramid averages one
feature tensor over spans of several lengths: spatial pyramid pooling (He et al., ECCV 2014) along time. It costs
B x L x T x D multiplications and copies no features.

N = B x T frames, B clip, T frame or token (a frame, or several merged ones), C channel, F channel of the first eighth,
H height, W width (of a window for the pyramid), S frame of a longer video, L span (of all levels together), D feature
"""

from __future__ import annotations

from collections.abc import Sequence
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


class TemporalPyramid(nn.Module):
    """Module that returns the mean of every span of every level: ``(B, T, D) -> (B, sum(levels), D)`` for any T.

    Level ``n`` divides a clip's frames into ``n`` spans as ``adaptive_avg_pool1d`` does, so level 1 is the mean.
    """

    index_L1: Tensor
    level_L1: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        spans = [(index, level) for level in levels for index in range(level)]
        index_L1, level_L1 = torch.tensor(spans).unsqueeze(-1).unbind(1)
        self.register_buffer("index_L1", index_L1, persistent=False)
        self.register_buffer("level_L1", level_L1, persistent=False)

    def forward(self, x_BTD: Tensor, size_BT: Tensor | None = None) -> Tensor:
        """Return the means. ``size_BT`` (whole numbers or bool) is the number of frames per token; None means one.

        A token counts as that many equal frames in a row, so level 1 stays the mean over frames. Padding has size 0 and
        changes nothing at any position. A clip without frames pools to zeros.
        """
        if size_BT is None:
            size_BT = torch.ones(x_BTD.shape[:2], dtype=torch.int64, device=x_BTD.device)
        with torch.autocast(x_BTD.device.type, enabled=False):  # bf16 would round the weights of a span of 3
            return self._span_weights(size_BT).to(x_BTD.dtype) @ x_BTD

    def ending_at_each(self, x_BSD: Tensor, keep_BS: Tensor, window: int) -> Tensor:
        """Return the pyramid over every run of ``window`` frames: ``(B, S, D) -> (B, S - window + 1, L, D)``.

        ``keep_BS`` (bool) is False before a video's first frame. Each frame is copied ``window`` times.
        """
        x_BTWD = x_BSD.unfold(1, window, 1).transpose(2, 3)
        keep_BTW = keep_BS.unfold(1, window, 1)
        return self(x_BTWD.flatten(0, 1), keep_BTW.flatten(0, 1)).unflatten(0, keep_BTW.shape[:2])

    def _span_weights(self, size_BT: Tensor) -> Tensor:
        """Return weights ``(B, L, T)`` that average each span's frames; they are small beside the features (L < D)."""
        size_B1T = size_BT.long().unsqueeze(1)
        end_B1T = size_B1T.cumsum(2)  # a token covers the frames from begin to end
        begin_B1T = end_B1T - size_B1T
        count_B11 = end_B1T[..., -1:]
        first_BL1 = self.index_L1 * count_B11 // self.level_L1
        last_BL1 = ((self.index_L1 + 1) * count_B11 + self.level_L1 - 1) // self.level_L1
        inside_BLT = (torch.minimum(end_B1T, last_BL1) - torch.maximum(begin_B1T, first_BL1)).clamp(min=0)
        return inside_BLT.double() / (last_BL1 - first_BL1).clamp(min=1)

"""Temporal pyramid pooling: averages of one feature tensor over spans of several lengths.

This is spatial pyramid pooling (He et al., ECCV 2014) along time. It costs B x L x T x D multiplications and copies no
features.

B clip, T token (a frame, or several merged ones), S frame of a longer video, W frame of a window,
L span (of all levels together), D feature
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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

"""Temporal pyramid pooling: one feature tensor, averaged over spans of several lengths.

B clip, T frame, L span (of all levels together), D feature
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TemporalPyramid(nn.Module):
    """Mean of every span of every level: ``(B, T, D) -> (B, sum(levels), D)`` for any T.

    Level ``n`` cuts a clip's frames into ``n`` spans as ``adaptive_avg_pool1d`` does, so level 1 is the mean.
    """

    index_L1: Tensor
    level_L1: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        spans = [(index, level) for level in levels for index in range(level)]
        index_L1, level_L1 = torch.tensor(spans).unsqueeze(-1).unbind(1)
        self.register_buffer("index_L1", index_L1, persistent=False)
        self.register_buffer("level_L1", level_L1, persistent=False)

    def forward(self, x_BTD: Tensor, keep_BT: Tensor | None = None) -> Tensor:
        """``keep_BT`` (bool) marks the frames that count: padding changes nothing, wherever it stands.

        A clip without any frame pools to zeros.
        """
        if keep_BT is None:
            keep_BT = torch.ones(x_BTD.shape[:2], dtype=torch.bool, device=x_BTD.device)
        with torch.autocast(x_BTD.device.type, enabled=False):  # bf16 would round the weights of a span of 3
            return self._span_weights(keep_BT).to(x_BTD.dtype) @ x_BTD

    def _span_weights(self, keep_BT: Tensor) -> Tensor:
        """Weights ``(B, L, T)`` that average each span's frames; small beside the features (L < D)."""
        place_B1T = (keep_BT.cumsum(1) - 1).unsqueeze(1)  # a frame's place among the kept ones
        count_B11 = keep_BT.sum(1).view(-1, 1, 1)
        begin_BL1 = self.index_L1 * count_B11 // self.level_L1
        end_BL1 = ((self.index_L1 + 1) * count_B11 + self.level_L1 - 1) // self.level_L1
        inside_BLT = keep_BT.unsqueeze(1) & (place_B1T >= begin_BL1) & (place_B1T < end_BL1)
        return inside_BLT.double() / inside_BLT.sum(2, keepdim=True).clamp(min=1)

"""A backbone that is used and not trained.

B clip, T frame, C channel, H height, W width, D feature
"""

from __future__ import annotations

import hashlib
from typing import Any, Self

import torch
from torch import Tensor

from models.networks.backbone import FrameBackbone


class FrozenBackbone(FrameBackbone):
    """A :class:`FrameBackbone` as its weights left it: no gradients, no batch statistics, nothing kept for backward.

    What it gives for a clip never changes, so whoever has the features (B, T, D) may pass them in place of the clips.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.recompute = "none"
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        """Clips to features ``(B, T, D)``; features pass through."""
        if clips_BTCHW.ndim == 3:
            return clips_BTCHW
        with torch.no_grad():
            return super().forward(clips_BTCHW)

    def version(self) -> str:
        """SHA-256 of the weights: equal versions give equal features. 0.1 s for resnet18."""
        digest = hashlib.sha256()
        for name, value in self.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

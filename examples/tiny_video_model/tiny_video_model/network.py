"""The model as it was before it was measured: it knows nothing of slr-bench.

B clip, C channel, T frame, H height, W width, K class
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class TinyVideoNet(nn.Module):
    """Three 3-D convolutions over a clip; ``recompute`` keeps their inputs and computes the rest again in backward."""

    def __init__(self, classes: int = 10, channels: int = 8, recompute: bool = False) -> None:
        super().__init__()
        self.recompute = recompute
        self.blocks = nn.ModuleList([_block(3, channels), _block(channels, channels), _block(channels, channels)])
        self.head = nn.Linear(channels, classes)

    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        """Logits, (B, K)."""
        features = clips_BCTHW
        for block in self.blocks:
            features = checkpoint(block, features, use_reentrant=False) if self.recompute else block(features)
        return self.head(torch.mean(features, dim=(2, 3, 4)))


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(inputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.ReLU())

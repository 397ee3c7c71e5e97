"""The recogniser: frames -> residual features -> temporal attention -> temporal pyramid -> sign class.

B clip, T frame, C channel, H height, W width, D feature, L span of the pyramid, K sign class
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.config import ModelConfig
from models.layers.attention import TemporalAttention
from models.layers.temporal_pyramid import TemporalPyramid
from models.networks.backbone import FrameBackbone, Recompute
from models.networks.weights import load_weights
from slr_bench.errors import ConfigError


class EfficientRecogniser(nn.Module):
    """The network of one arm. How it computes (shift kind, dense or chunked, recompute) changes no parameter's name."""

    def __init__(self, config: ModelConfig, recompute: Recompute = "none") -> None:
        super().__init__()
        self.num_frames = config.num_frames
        self.backbone = FrameBackbone(
            config.backbone,
            config.base_channels,
            config.num_frames,
            config.temporal_shift,
            recompute,
            config.max_pool,
        )
        features = self.backbone.features
        # Attention and means do not see the order of frames; this tells them. Small, beside features of size 1.
        self.position_TD = nn.Parameter(torch.empty(config.num_frames, features).normal_(std=0.02))
        self.attention = None
        if config.attention != "none":
            self.attention = TemporalAttention(
                features, config.attention_heads, config.attention, config.attention_chunk_size
            )
        self.pyramid = TemporalPyramid(config.pyramid_levels)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(features * sum(config.pyramid_levels), config.num_classes)

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        """``uint8`` (0..255) or float (0..1) RGB clips to ``logits_BK``. Normalises on the clips' device.

        Raises:
            ConfigError: clips of another number of frames than the network was built for.
        """
        if clips_BTCHW.shape[1] != self.num_frames:
            raise ConfigError(
                f"clips have {clips_BTCHW.shape[1]} frames but the network was built for {self.num_frames}; "
                "set model.num_frames to what the data yields"
            )
        x_BTD = self.backbone(clips_BTCHW) + self.position_TD
        if self.attention is not None:
            x_BTD = self.attention(x_BTD)
        return self.classifier(self.dropout(self.pyramid(x_BTD).flatten(1)))


def build_recogniser(config: ModelConfig, recompute: Recompute = "none") -> EfficientRecogniser:
    """The network of ``config``, with ``config.weights`` loaded into its backbone if given.

    Raises:
        ConfigError: the weights file cannot be read or does not fit.
    """
    model = EfficientRecogniser(config, recompute)
    if config.weights is not None:
        load_weights(model.backbone, config.weights)
    return model

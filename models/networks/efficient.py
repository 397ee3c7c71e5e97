"""The recogniser: frames, residual features, temporal attention, temporal pyramid, sign class. Builds any network.

B clip, T frame, C channel, H height, W width, D feature, L span of the pyramid, K sign class
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import ModelConfig
from models.layers.attention import TemporalAttention
from models.layers.region_focus import RegionFocus
from models.layers.temporal import TemporalPyramid
from models.layers.temporal_resolution import choose_frames, merge_frames, motion_energy, take_frames
from models.networks.backbone import FrameBackbone, FrozenBackbone, Recompute, SelectedFrames
from models.networks.published import load_weights, read_weights
from models.networks.weights import Glosses, Target
from slr_bench.errors import ConfigError

if TYPE_CHECKING:
    from models.networks.video import VideoNetwork


class EfficientRecogniser(nn.Module):
    """The network of one arm. Options for how it computes (shift, attention, recompute) change no parameter's name."""

    def __init__(self, config: ModelConfig, recompute: Recompute = "none") -> None:
        super().__init__()
        self.num_frames = config.num_frames
        self.frames_seen = config.frames_seen
        self.token_merging = config.token_merging
        self.causal = config.causal
        self.focus: nn.Module = nn.Identity()
        if config.region_focus != "none":
            self.focus = RegionFocus(config.region_focus, config.focus_size)
        kind = FrozenBackbone if config.freeze_backbone else FrameBackbone
        self.backbone = kind(
            config.backbone,
            config.base_channels,
            config.frames_seen,
            config.temporal_shift,
            recompute,
            norm=config.norm,
            max_pool=config.max_pool,
            stem=config.stem,
            causal=config.causal,
        )
        features = self.backbone.features
        # Attention and means do not depend on the order of frames; the positions carry it.
        # A stream has no first frame. Its order comes from the shift, the window and the pyramid.
        position_TD = None if config.causal else initial_positions(config.num_frames, features)
        self.register_parameter("position_TD", None if position_TD is None else nn.Parameter(position_TD))
        self.attention = None
        if config.attention != "none":
            self.attention = TemporalAttention(
                features,
                config.attention_heads,
                config.attention,
                config.attention_chunk_size,
                config.attention_window,
                config.attention_global_frames,
                config.causal,
            )
        self.pyramid = TemporalPyramid(config.pyramid_levels)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(features * sum(config.pyramid_levels), config.num_classes)

    def forward(self, clips: Tensor | SelectedFrames) -> Tensor:
        """Return ``logits_BK`` of RGB clips, ``uint8`` (0..255) or float (0..1), or of what :meth:`select` returned.

        Normalises on the clips' device. A causal network in evaluation takes clips of any length and returns the
        logits at their last frame.

        Raises:
            ConfigError: clips of another number of frames than the network was built for.
        """
        selected = clips if isinstance(clips, SelectedFrames) else self.select(clips)
        x_BTD, size_BT = self._tokens(selected)
        if self.attention is not None:
            x_BTD = self.attention(x_BTD, size_BT=size_BT)
        if self.causal:
            x_BTD = x_BTD[:, -self.num_frames :]
        return self.classify(self.pyramid(x_BTD, size_BT))

    def select(self, clips_BTCHW: Tensor) -> SelectedFrames:
        """Return the frames and pixels that the network uses. The owner of the clips can free them afterwards.

        Raises:
            ConfigError: clips of another number of frames than the network was built for.
        """
        frames = clips_BTCHW.shape[1]
        if frames != self.num_frames and (self.training or not self.causal):
            raise ConfigError(
                f"clips have {frames} frames but the network was built for {self.num_frames}; "
                "set model.num_frames to what the data yields"
            )
        if self.frames_seen == self.num_frames:
            return SelectedFrames(self.focus(clips_BTCHW))
        chosen_BT = choose_frames(motion_energy(clips_BTCHW), self.frames_seen)
        return SelectedFrames(self.focus(take_frames(clips_BTCHW, chosen_BT)), chosen_BT)

    def at_every_frame(self, clips_BTCHW: Tensor) -> Tensor:
        """Return ``logits_BTK`` of a causal network: at each frame, for the ``num_frames`` frames that end there."""
        assert self.causal, "only a causal network has logits at every frame"
        x_BTD = self.backbone(clips_BTCHW)
        if self.attention is not None:
            x_BTD = self.attention(x_BTD)
        before = self.num_frames - 1
        keep_BT = F.pad(torch.ones(x_BTD.shape[:2], dtype=torch.bool, device=x_BTD.device), (before, 0))
        return self.classify(self.pyramid.ending_at_each(F.pad(x_BTD, (0, 0, before, 0)), keep_BT, self.num_frames))

    def weights_target(self, names: Iterable[str]) -> Target:
        """Return the part that weights with these names fill: the whole network, or the backbone."""
        if any(name.startswith("backbone.") for name in names):
            cure = "use a checkpoint with the same model settings (num_classes may differ)"
            return Target(self, "backbone.conv1.weight", "classifier", cure)
        cure = "use weights of this model.backbone and model.base_channels (torchvision: 64)"
        return Target(self.backbone, "conv1.weight", None, cure)

    def classify(self, pooled_BLD: Tensor) -> Tensor:
        """Return the logits of the pyramid's output, for any dimensions before L and D."""
        return self.classifier(self.dropout(pooled_BLD.flatten(-2)))

    def _tokens(self, selected: SelectedFrames) -> tuple[Tensor, Tensor | None]:
        """Return features with positions, merged, and the number of frames per token; None if no frames are merged."""
        x_BTD = self.backbone(selected.clips_BTCHW)
        if self.position_TD is not None:
            positions_BT = selected.positions_BT
            x_BTD = x_BTD + (self.position_TD if positions_BT is None else self.position_TD[positions_BT])
        return merge_frames(x_BTD, self.token_merging) if self.token_merging else (x_BTD, None)


def initial_positions(frames: int, features: int) -> Tensor:
    """Return sines and cosines of the frame's index, ``(T, D)``, with wavelengths that fit a clip.

    They follow the transformer (Vaswani et al., NeurIPS 2017), from half a turn per clip to a quarter of a turn per
    frame, and are trained from there. They start half as large as features of size 1. Started at 0.02, the usual size,
    attention alone did not learn the order.
    """
    turn_D = torch.linspace(math.log(math.pi / frames), math.log(math.pi / 2), features // 2).exp()
    angle_TD = torch.arange(frames).unsqueeze(1) * turn_D
    return torch.cat([angle_TD.sin(), angle_TD.cos()], 1) * math.sqrt(0.5)


def build_recogniser(config: ModelConfig, recompute: Recompute = "none", glosses: Glosses | None = None) -> nn.Module:
    """Build the network of ``config`` and load ``config.weights`` if they are set.

    The weights of a torchvision ResNet go into the backbone, a checkpoint of this trainer into the whole network.
    ``glosses`` are the words of the data: a classifier that was trained on the same words is put into their order, and
    one that was trained on others starts from scratch, with a warning.

    Raises:
        ConfigError: the weights file cannot be read or does not fit.
    """
    model: EfficientRecogniser | VideoNetwork
    if config.network == "efficient":
        model = EfficientRecogniser(config, recompute)
    else:
        from models.networks.video import VideoNetwork  # most processes need one network only

        model = VideoNetwork(config, recompute)
    if config.weights is not None:
        weights = read_weights(config.weights)
        target = model.weights_target(weights.state)
        load_weights(target, weights, config.weights, config.weights_channel_order, glosses)
    elif config.freeze_backbone:
        warnings.warn("model.freeze_backbone: true without model.weights freezes random numbers", stacklevel=2)
    return model

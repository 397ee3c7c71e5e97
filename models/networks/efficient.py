"""The recogniser: frames -> residual features -> temporal attention -> temporal pyramid -> sign class.

B clip, T frame, C channel, H height, W width, D feature, L span of the pyramid, K sign class
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import ModelConfig
from models.layers.attention import TemporalAttention
from models.layers.region_focus import RegionFocus
from models.layers.temporal_pyramid import TemporalPyramid
from models.layers.temporal_resolution import choose_frames, merge_frames, motion_energy, take_frames
from models.networks.backbone import FrameBackbone, Recompute
from models.networks.frozen import FrozenBackbone
from models.networks.seen import Seen
from models.networks.video import build_video_network
from models.networks.weights import load_backbone, load_network, read_weights
from slr_bench.errors import ConfigError


class EfficientRecogniser(nn.Module):
    """The network of one arm. How it computes (shift kind, dense or chunked, recompute) changes no parameter's name."""

    def __init__(self, config: ModelConfig, recompute: Recompute = "none") -> None:
        super().__init__()
        self.num_frames = config.num_frames
        self.frames_seen = config.frames_seen
        self.token_merging = config.token_merging
        self.causal = config.causal
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
        # Attention and means do not see the order of frames; this tells them.
        # A stream has no first frame: there order comes from the shift, the window and the pyramid.
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

    def forward(self, clips: Tensor | Seen) -> Tensor:
        """``uint8`` (0..255) or float (0..1) RGB clips, or what :meth:`see` gave of them, to ``logits_BK``.

        Normalises on the clips' device. A causal network in evaluation takes clips of any length and tells the sign at
        their last frame.

        Raises:
            ConfigError: clips of another number of frames than the network was built for.
        """
        seen = clips if isinstance(clips, Seen) else self.see(clips)
        x_BTD, size_BT = self._tokens(seen)
        if self.attention is not None:
            x_BTD = self.attention(x_BTD, size_BT=size_BT)
        if self.causal:
            x_BTD = x_BTD[:, -self.num_frames :]
        return self.classify(self.pyramid(x_BTD, size_BT))

    def see(self, clips_BTCHW: Tensor) -> Seen:
        """The frames and pixels that the network looks at. Who owns the clips calls this first, and can let them go.

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
            return Seen(self.focus(clips_BTCHW))
        chosen_BT = choose_frames(motion_energy(clips_BTCHW), self.frames_seen)
        return Seen(self.focus(take_frames(clips_BTCHW, chosen_BT)), chosen_BT)

    def at_every_frame(self, clips_BTCHW: Tensor) -> Tensor:
        """``logits_BTK`` of a causal network: at each frame the sign of the ``num_frames`` frames that end there."""
        assert self.causal, "a network that sees later frames knows the sign at the end only"
        x_BTD = self.backbone(clips_BTCHW)
        if self.attention is not None:
            x_BTD = self.attention(x_BTD)
        before = self.num_frames - 1
        keep_BT = F.pad(torch.ones(x_BTD.shape[:2], dtype=torch.bool, device=x_BTD.device), (before, 0))
        return self.classify(self.pyramid.ending_at_each(F.pad(x_BTD, (0, 0, before, 0)), keep_BT, self.num_frames))

    def classify(self, pooled_BLD: Tensor) -> Tensor:
        """Logits of what the pyramid gave, for any dimensions before L and D."""
        return self.classifier(self.dropout(pooled_BLD.flatten(-2)))

    def _tokens(self, seen: Seen) -> tuple[Tensor, Tensor | None]:
        """Features in their places, merged; and how many frames each stands for, None where that is one."""
        x_BTD = self.backbone(seen.clips_BTCHW)
        if self.position_TD is not None:
            x_BTD = x_BTD + (self.position_TD if seen.places_BT is None else self.position_TD[seen.places_BT])
        return merge_frames(x_BTD, self.token_merging) if self.token_merging else (x_BTD, None)


def initial_positions(frames: int, features: int) -> Tensor:
    """Sines and cosines of the frame's place, ``(T, D)``, from half a turn a clip to a quarter of a turn a frame.

    As in the transformer (Vaswani et al., NeurIPS 2017) with wavelengths that fit a clip; trained from there. Half as
    large as features of size 1: from 0.02, the usual size, attention alone did not learn order.
    """
    turn_D = torch.linspace(math.log(math.pi / frames), math.log(math.pi / 2), features // 2).exp()
    angle_TD = torch.arange(frames).unsqueeze(1) * turn_D
    return torch.cat([angle_TD.sin(), angle_TD.cos()], 1) * math.sqrt(0.5)


def build_recogniser(config: ModelConfig, recompute: Recompute = "none") -> nn.Module:
    """The network of ``config``, with ``config.weights`` loaded if given: a torchvision ResNet's into the backbone, one
    of ours (a checkpoint) into all of it.

    Raises:
        ConfigError: the weights file cannot be read or does not fit.
    """
    if config.network != "efficient":
        return build_video_network(config, recompute)
    model = EfficientRecogniser(config, recompute)
    if config.weights is not None:
        state = read_weights(config.weights)
        if any(str(name).startswith("backbone.") for name in state):
            cure = "use a checkpoint of the same model settings (but for num_classes)"
            load_network(model, state, "classifier", config.weights, cure)
        else:
            load_backbone(model.backbone, state, config.weights)
    elif config.freeze_backbone:
        warnings.warn("model.freeze_backbone: true without model.weights freezes random numbers", stacklevel=2)
    return model

"""3-D convolutional networks under the trainer's interface: the WLASL paper's I3D, torchvision's R3D-18 and S3D.

B clip, T frame, C channel, H height, W width, K sign class
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import video

from models.config import ModelConfig
from models.layers.recompute import recomputed
from models.layers.region_focus import RegionFocus
from models.networks.backbone import Recompute
from models.networks.i3d import InceptionI3d, window_mean
from models.networks.seen import Seen
from models.networks.weights import load_network, read_weights


class Anatomy(NamedTuple):
    """A network, taken apart as recomputation and the loading of weights need it."""

    net: nn.Module
    stages: list[list[nn.Module]]
    """The layers in order, grouped by the size of the grid they work on."""
    head: Callable[[Any, Tensor], Tensor]
    """The network and its last layer's output to ``logits_BK``."""
    classifier: str
    """Name of the layer whose shape depends on the number of classes."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of the RGB channels, in 0..1, as the published weights were trained."""


def i3d(config: ModelConfig) -> Anatomy:
    """Wants values in [-1, 1]."""
    net = InceptionI3d(config.num_classes, config.dropout)
    return Anatomy(net, grouped(net.layers()), InceptionI3d.head, "logits.conv3d", (0.5,) * 3, (0.5,) * 3)


_KINETICS = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)


def r3d_18(config: ModelConfig) -> Anatomy:
    """Tran et al., CVPR 2018; with dropout before its classifier."""
    net = video.r3d_18(num_classes=config.num_classes)
    stages = [[net.stem], *([*stage] for stage in (net.layer1, net.layer2, net.layer3, net.layer4))]
    net.avgpool = nn.Sequential(net.avgpool, nn.Dropout(config.dropout))
    return Anatomy(net, stages, _r3d_head, "fc", *_KINETICS)


def _r3d_head(net: Any, x_BCTHW: Tensor) -> Tensor:
    return net.fc(net.avgpool(x_BCTHW).flatten(1))


def s3d(config: ModelConfig) -> Anatomy:
    """Xie et al., ECCV 2018."""
    net = video.s3d(num_classes=config.num_classes, dropout=config.dropout)
    return Anatomy(net, grouped(list(net.features)), _s3d_head, "classifier.1", *_KINETICS)


def _s3d_head(net: Any, x_BCTHW: Tensor) -> Tensor:
    return net.classifier(window_mean(x_BCTHW)).mean((2, 3, 4))


NETWORKS = {"i3d": i3d, "r3d_18": r3d_18, "s3d": s3d}


def grouped(layers: list[nn.Module]) -> list[list[nn.Module]]:
    """``layers`` in stages: a new one begins at each pooling, which joins the layer behind it (alone it would only add
    its output to what recomputation keeps)."""
    stages: list[list[nn.Module]] = [[]]
    pool: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.MaxPool3d):
            pool = [layer]
            stages.append([])
        else:
            stages[-1].append(nn.Sequential(*pool, layer) if pool else layer)
            pool = []
    return stages


_OWN = "net."
"""What a name of the network's begins with in a :class:`VideoNetwork`."""


class VideoNetwork(nn.Module):
    """``uint8`` (0..255) or float (0..1) RGB clips of any length and size to logits.

    ``recompute``: ``stage`` keeps the uint8 clip and what each stage starts from, ``block`` what each layer does.
    """

    mean_C1: Tensor
    std_C1: Tensor

    def __init__(self, config: ModelConfig, recompute: Recompute = "none") -> None:
        super().__init__()
        self.recompute = recompute
        self.focus = RegionFocus(config.region_focus, config.focus_size)
        anatomy = NETWORKS[config.network](config)
        self.net, self._head, self.classifier_name = anatomy.net, anatomy.head, anatomy.classifier
        stages = anatomy.stages if recompute == "block" else [[nn.Sequential(*stage)] for stage in anatomy.stages]
        # A list, not registered: there the parameters would have second names.
        self._units = [unit for stage in stages for unit in stage]
        for name, value in (("mean_C1", anatomy.mean), ("std_C1", anatomy.std)):
            self.register_buffer(name, torch.tensor(value).view(-1, 1, 1, 1), persistent=False)

    def see(self, clips_BTCHW: Tensor) -> Seen:
        """The clips as the first layer sees them."""
        return Seen(self.focus(clips_BTCHW))

    def forward(self, clips_BTCHW: Tensor | Seen) -> Tensor:
        x = (clips_BTCHW if isinstance(clips_BTCHW, Seen) else self.see(clips_BTCHW)).clips_BTCHW
        for index, unit in enumerate(self._units):
            run = partial(self._first, unit) if index == 0 else unit
            x = run(x) if self.recompute == "none" else recomputed(run, x, [unit])
        return self._head(self.net, x)

    def _first(self, unit: nn.Module, clips_BTCHW: Tensor) -> Tensor:
        # Normalised inside the first unit: recomputation then keeps the clip as bytes.
        x_BCTHW = clips_BTCHW.transpose(1, 2)
        if not x_BCTHW.is_floating_point():
            x_BCTHW = x_BCTHW.to(self.mean_C1.dtype).div_(255)
        return unit((x_BCTHW - self.mean_C1) / self.std_C1)


def build_video_network(config: ModelConfig, recompute: Recompute = "none") -> VideoNetwork:
    """The network of ``config``, with ``config.weights`` loaded if given: published names, or ours (a checkpoint).

    Raises:
        ConfigError: the weights file cannot be read or does not fit.
    """
    model = VideoNetwork(config, recompute)
    if config.weights is not None:
        state = read_weights(config.weights)
        if state and all(str(name).startswith(_OWN) for name in state):
            state = {name.removeprefix(_OWN): value for name, value in state.items()}
        cure = f"use weights of the network {config.network}"
        load_network(model.net, state, model.classifier_name, config.weights, cure)
    return model

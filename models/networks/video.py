"""3-D convolutional networks for the trainer: I3D of the WLASL paper, R3D-18 and S3D of torchvision.

B clip, T frame, C channel, H height, W width, K sign class
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import video

from models.config import ModelConfig
from models.layers.recompute import recomputed
from models.layers.region_focus import RegionFocus
from models.networks.backbone import Recompute, SelectedFrames
from models.networks.i3d import InceptionI3d, window_mean
from models.networks.weights import Target


class Anatomy(NamedTuple):
    """The parts of a network that recomputation and the loading of weights need."""

    net: nn.Module
    stages: list[list[nn.Module]]
    """The layers in order, grouped by the size of the grid that they work on."""
    head: Callable[[Any, Tensor], Tensor]
    """Computes ``logits_BK`` from the network and the output of its last stage."""
    first: str
    """Name of the weight that meets the colours."""
    classifier: str
    """Name of the layer whose shape depends on the number of classes."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Mean and deviation of the RGB channels, in 0..1, with which the published weights were trained."""


def i3d(config: ModelConfig) -> Anatomy:
    """Return the anatomy of I3D, which takes values in [-1, 1]."""
    net = InceptionI3d(config.num_classes, config.dropout)
    first, classifier = "Conv3d_1a_7x7.conv3d.weight", "logits.conv3d"
    return Anatomy(net, grouped(net.layers()), InceptionI3d.head, first, classifier, (0.5,) * 3, (0.5,) * 3)


_KINETICS = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)


def r3d_18(config: ModelConfig) -> Anatomy:
    """Return the anatomy of R3D-18 (Tran et al., CVPR 2018), with dropout before its classifier."""
    net = video.r3d_18(num_classes=config.num_classes)
    stages = [[net.stem], *([*stage] for stage in (net.layer1, net.layer2, net.layer3, net.layer4))]
    net.avgpool = nn.Sequential(net.avgpool, nn.Dropout(config.dropout))
    return Anatomy(net, stages, _r3d_head, "stem.0.weight", "fc", *_KINETICS)


def _r3d_head(net: Any, x_BCTHW: Tensor) -> Tensor:
    return net.fc(net.avgpool(x_BCTHW).flatten(1))


def s3d(config: ModelConfig) -> Anatomy:
    """Return the anatomy of S3D (Xie et al., ECCV 2018)."""
    net = video.s3d(num_classes=config.num_classes, dropout=config.dropout)
    first, classifier = "features.0.0.0.weight", "classifier.1"
    return Anatomy(net, grouped(list(net.features)), _s3d_head, first, classifier, *_KINETICS)


def _s3d_head(net: Any, x_BCTHW: Tensor) -> Tensor:
    return net.classifier(window_mean(x_BCTHW)).mean((2, 3, 4))


NETWORKS = {"i3d": i3d, "r3d_18": r3d_18, "s3d": s3d}


def grouped(layers: list[nn.Module]) -> list[list[nn.Module]]:
    """Group ``layers`` into stages; a new stage begins at each pooling.

    The pooling joins the layer after it, because alone it would only add its output to what recomputation keeps.
    """
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


class VideoNetwork(nn.Module):
    """Network that turns RGB clips of any length and size, ``uint8`` (0..255) or float (0..1), into logits.

    ``recompute="stage"`` keeps the uint8 clip and the input of each stage, ``"block"`` the input of each layer.
    """

    mean_C1: Tensor
    std_C1: Tensor

    def __init__(self, config: ModelConfig, recompute: Recompute = "none") -> None:
        super().__init__()
        self.recompute = recompute
        self.focus: nn.Module = nn.Identity()
        if config.region_focus != "none":
            self.focus = RegionFocus(config.region_focus, config.focus_size)
        self.name = config.network
        anatomy = NETWORKS[self.name](config)
        self.net, self._head = anatomy.net, anatomy.head
        self.first_name, self.classifier_name = anatomy.first, anatomy.classifier
        stages = anatomy.stages if recompute == "block" else [[nn.Sequential(*stage)] for stage in anatomy.stages]
        # A plain list: registered as modules, the parameters would have second names.
        self._units = [unit for stage in stages for unit in stage]
        for name, value in (("mean_C1", anatomy.mean), ("std_C1", anatomy.std)):
            self.register_buffer(name, torch.tensor(value).view(-1, 1, 1, 1), persistent=False)

    def weights_target(self, names: Iterable[str]) -> Target:
        """Return the part that weights fill: the network without what this class adds."""
        cure = f"use weights of the network {self.name}"
        return Target(self.net, self.first_name, self.classifier_name, cure)

    def select(self, clips_BTCHW: Tensor) -> SelectedFrames:
        """Return the pixels that the first layer uses."""
        return SelectedFrames(self.focus(clips_BTCHW))

    def forward(self, clips: Tensor | SelectedFrames) -> Tensor:
        x = (clips if isinstance(clips, SelectedFrames) else self.select(clips)).clips_BTCHW
        for index, unit in enumerate(self._units):
            run = partial(self._first, unit) if index == 0 else unit
            x = run(x) if self.recompute == "none" else recomputed(run, x, [unit])
        return self._head(self.net, x)

    def _first(self, unit: nn.Module, clips_BTCHW: Tensor) -> Tensor:
        # Normalising inside the first unit lets recomputation keep the clip as bytes.
        x_BCTHW = clips_BTCHW.transpose(1, 2)
        if not x_BCTHW.is_floating_point():
            x_BCTHW = x_BCTHW.to(self.mean_C1.dtype).div_(255)
        return unit((x_BCTHW - self.mean_C1) / self.std_C1)

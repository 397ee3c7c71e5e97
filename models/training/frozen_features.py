"""Training behind a frozen backbone: where its features may be kept, and how they are made."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from models.config import Settings
from models.data.loading.clips import Loaders
from models.data.loading.feature_loader import FeatureLoader
from models.networks.backbone import FrozenBackbone
from models.training.optimization import autocast


def with_kept_features(loaders: Loaders, model: nn.Module, settings: Settings, device: torch.device) -> Loaders:
    """``loaders``, or with ``settings.keeps_features`` such that yield the features of ``model``'s frozen backbone.

    Features are made on ``device`` in the training's compute type, as the network itself would make them.
    """
    if not settings.keeps_features:
        return loaders
    backbone = model.get_submodule("backbone")
    assert isinstance(backbone, FrozenBackbone)

    def extract(clips_BTCHW: Tensor) -> Tensor:
        with autocast(device, settings.training):
            return backbone(clips_BTCHW.to(device)).cpu()

    loaders.close()
    loader = FeatureLoader(loaders.train.loader.clips, settings, extract, backbone.version)
    return replace(
        loaders,
        train=replace(loaders.train, loader=loader),
        val=replace(loaders.val, loader=loader),
        test=replace(loaders.test, loader=loader),
    )

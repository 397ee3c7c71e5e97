"""Loads a trained network with its setting and its words: a checkpoint of the trainer, or a published file.

K sign class
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from models.config import Settings, settings_of
from models.networks.efficient import EfficientRecogniser, build_recogniser
from models.networks.published import in_rgb, weights_in
from models.networks.tensor_file import read_tensor_file
from models.networks.weights import (
    CHECKPOINT_FORMAT,
    Glosses,
    load_backbone,
    load_network,
    state_difference,
    trained_glosses,
)
from slr_bench.errors import ConfigError
from slr_bench.grid.yaml_files import read_yaml

_RESNET_LAYER = "layer1.0.conv1.weight"
"""A tensor that a ResNet for images has, and no network of this project."""
_BACKBONE_ALONE = (
    "checkpoint: {} holds a backbone alone, which recognises no signs; start a training from it with "
    "train_efficient_model.py --weights"
)


class TrainedRecogniser(NamedTuple):
    """A network from a checkpoint, on the CPU."""

    model: nn.Module
    settings: Settings
    glosses: Glosses | None
    """Word of each class; None if the checkpoint does not name them."""


def load_recogniser(path: Path, config: Path | None, overrides: dict[str, Any]) -> TrainedRecogniser:
    """Load the trained network of the checkpoint ``path``, with its setting and ``overrides`` over it.

    The setting comes from ``config`` if it is given, otherwise from the checkpoint or the ``config.yml`` beside it. A
    published file has no setting, so ``config`` or ``overrides`` must name its network.

    Raises:
        ConfigError: the file is unreadable or foreign, or the setting is missing or describes another network.
    """
    content = read_tensor_file(path, "checkpoint")
    if "parts" not in content and content.get("format") != CHECKPOINT_FORMAT:
        return _published(path, content, config, overrides)
    parts = content.get("parts")
    if not isinstance(parts, dict) or not isinstance(parts.get("model"), dict):
        raise ConfigError(f"checkpoint: {path} holds no network; use the checkpoint.pt of train_efficient_model.py")
    own, beside = content.get("settings", {}), path.with_name("config.yml")
    if config is not None or ("model" not in own and beside.exists()):
        source = config or beside
        values, where = read_yaml(source), str(source)
    elif "model" in own:
        values, where = own, f"checkpoint {path}"
    else:
        raise ConfigError(f"checkpoint: {path} does not contain its configuration; pass its config.yml with --config")
    settings = settings_of(values, overrides, where)
    model = _empty(settings)
    difference = state_difference(model.state_dict(), parts["model"])
    if difference:
        raise ConfigError(
            f"checkpoint: {path} does not match the network in {where}: {difference}; "
            "use the configuration that it was trained with"
        )
    model.load_state_dict(parts["model"])
    return TrainedRecogniser(model, settings, trained_glosses(content))


def _published(
    path: Path, content: dict[str, Any], config: Path | None, overrides: dict[str, Any]
) -> TrainedRecogniser:
    """Load a file of another program whose classifier fits."""
    weights = weights_in(content, path)
    if config is None and _RESNET_LAYER in weights.state:
        raise ConfigError(_BACKBONE_ALONE.format(path))
    if config is None and not any(key.startswith("model.") for key in overrides):
        raise ConfigError(
            f"checkpoint: {path} was not written by train_efficient_model.py, so it does not describe its network; "
            "pass --config, or --set model.network=i3d --set model.num_classes=100 (for example)"
        )
    settings = settings_of({} if config is None else read_yaml(config), overrides, str(config or "--set"))
    model = _empty(settings)
    target = cast(EfficientRecogniser, model).weights_target(weights.state)
    state = in_rgb(weights, target.first, settings.model.weights_channel_order, path)
    if target.classifier is None:
        load_backbone(target, state, path)
        raise ConfigError(_BACKBONE_ALONE.format(path))
    classifier = state.get(f"{target.classifier}.weight")
    if isinstance(classifier, Tensor) and len(classifier) != settings.model.num_classes:
        raise ConfigError(
            f"checkpoint: {path} has {len(classifier)} classes, model.num_classes is {settings.model.num_classes}; "
            f"use --set model.num_classes={len(classifier)}"
        )
    load_network(target, state, path)
    return TrainedRecogniser(model, settings, None)


def _empty(settings: Settings) -> nn.Module:
    return build_recogniser(settings.model.model_copy(update={"weights": None, "freeze_backbone": False}))

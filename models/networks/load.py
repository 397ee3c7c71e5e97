"""The network that a checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from models.config import Settings, settings_of
from models.networks.efficient import build_recogniser
from models.networks.weights import read_tensor_file, state_difference
from slr_bench.errors import ConfigError, read_yaml


def load_recogniser(path: Path, config: Path | None, overrides: dict[str, Any]) -> tuple[nn.Module, Settings]:
    """The trained network of the checkpoint ``path``, on the CPU, and its setting with ``overrides`` laid over it.

    The setting is that of ``config``, else the checkpoint's own, else that of ``config.yml`` beside it.

    Raises:
        ConfigError: unreadable or foreign file, no setting to be had, or one of another network.
    """
    content = read_tensor_file(path, "checkpoint")
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
        raise ConfigError(f"checkpoint: {path} does not say how it was made; name its config.yml with --config")
    settings = settings_of(values, overrides, where)
    model = build_recogniser(settings.model.model_copy(update={"weights": None, "freeze_backbone": False}))
    difference = state_difference(model.state_dict(), parts["model"])
    if difference:
        raise ConfigError(
            f"checkpoint: {path} is not of the network in {where}: {difference}; use the one it was made with"
        )
    model.load_state_dict(parts["model"])
    return model, settings

"""Checkpoints: written completely or not at all, read without running code from them, resumed exactly."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from models.config import Settings
from models.networks.tensor_file import read_tensor_file
from models.networks.weights import CHECKPOINT_FORMAT, state_difference, trained_glosses
from slr_bench.errors import ConfigError
from slr_bench.files import write_atomically

SCHEMA = 2  # 1: the training section as ``config``; 2: the whole setting as ``settings``, events and micro-batch

# Keys whose values may differ on resume, because they change memory, speed or messages and no weight. Also paths,
# ``dynamic_batch_size``, which rescues a training that does not fit, and ``weights``, which only start one.
HARMLESS = {
    "model": {"weights", "weights_channel_order", "enable_feature_caching", "cache_size_limit_mb"},
    "data": {"dir", "chunk_size", "max_frames_in_memory", "num_workers", "prefetch_batches"},
    "training": {
        "recompute", "activation_offload", "optimizer_in_backward", "dynamic_batch_size",
        "enable_memory_tracking", "memory_warning_threshold", "memory_critical_threshold",
    },
}  # fmt: skip

_ALONE = "give --output-dir and --resume alone, which read its config.yml"

Section = dict[str, Any]


@dataclass(frozen=True)
class TrainingIdentity:
    """Identifies the training of a checkpoint. Resumed as another one, it would end with different weights."""

    settings: dict[str, Section]
    """Sections of a :class:`Settings` in their JSON form."""
    total_steps: int
    data_fingerprint: str | None = None
    """Identifies the clips (``Manifest.fingerprint``); None if unknown, as in older checkpoints."""
    glosses: tuple[str, ...] | None = None
    """Word of each class; None if unknown, as in older checkpoints."""


class Stateful(Protocol):
    """A part with a state: model, optimizer, schedule or gradient scaler."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


def save_checkpoint(
    path: Path, parts: Mapping[str, Stateful], identity: TrainingIdentity, progress: dict[str, Any]
) -> None:
    """Write the state of ``parts`` (``model`` among them), the random states and ``progress`` (plain containers).

    Raises:
        ConfigError: the path cannot be written; an earlier checkpoint is unchanged.
    """
    content = {
        "format": CHECKPOINT_FORMAT,
        "schema": SCHEMA,
        "settings": identity.settings,
        "total_steps": identity.total_steps,
        "data_fingerprint": identity.data_fingerprint,
        "glosses": None if identity.glosses is None else list(identity.glosses),
        "progress": progress,
        "random": random_state(),
        "parts": {name: part.state_dict() for name, part in parts.items()},
    }
    write_atomically(path, lambda file: torch.save(content, file), make_directory=True)


def load_checkpoint(
    path: Path, parts: Mapping[str, Stateful], identity: TrainingIdentity
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load a checkpoint's state into ``parts``; return its ``progress`` and its random state, which is not set yet.

    Raises:
        ConfigError: the file is missing, truncated or foreign, or its network, settings or data differ. Nothing has
            been loaded then.
    """
    content = read_tensor_file(path, "checkpoint")
    if content.get("format") != CHECKPOINT_FORMAT or content.get("schema") not in (1, SCHEMA):
        raise ConfigError(f"checkpoint: {path} was not written by this trainer (schemas 1 to {SCHEMA}); train anew")
    kept = "config" if content["schema"] == 1 else "settings"
    missing = {kept, "total_steps", "progress", "random", "parts"} - set(content)
    if missing or set(content["parts"]) != set(parts):
        raise ConfigError(f"checkpoint: {path} lacks {', '.join(sorted(missing)) or 'some parts'}; train anew")
    network = state_difference(parts["model"].state_dict(), content["parts"]["model"])
    if network:
        raise ConfigError(
            f"checkpoint: {path} holds another network: {network}; resume with the same model settings: {_ALONE}"
        )
    before = {"training": content["config"]} if content["schema"] == 1 else content["settings"]
    if difference := _settings_difference(before, identity.settings):
        cure = f"resume with the same settings: {_ALONE}"
        if difference.startswith("training.epochs"):
            cure = (
                "the learning rate has a schedule for exactly these epochs; to train longer, start a new training from "
                f"the weights: --weights {path} with another --output-dir"
            )
        raise ConfigError(f"checkpoint: {path} was made with {difference}; {cure}")
    if content["total_steps"] != identity.total_steps:
        raise ConfigError(
            f"checkpoint: {path} was made for {content['total_steps']} optimizer steps, now there are "
            f"{identity.total_steps}; resume with the same data"
        )
    _refuse_other_data(content, identity, path)
    for name, part in parts.items():
        part.load_state_dict(content["parts"][name])
    return content["progress"], content["random"]


def _refuse_other_data(content: Mapping[str, Any], identity: TrainingIdentity, path: Path) -> None:
    clips = content.get("data_fingerprint")
    if None not in (clips, identity.data_fingerprint) and clips != identity.data_fingerprint:
        raise ConfigError(
            f"checkpoint: {path} was made on other clips (their ids, classes, splits, frames or file sizes differ); "
            "resume with the same data, or start from its weights with --weights and another --output-dir"
        )
    trained = trained_glosses(content)
    if None not in (trained, identity.glosses) and trained != identity.glosses:
        raise ConfigError(
            f"checkpoint: {path} was trained on other words, or on the same words in another order; resume with the "
            "same class list, or start from its weights with --weights and another --output-dir"
        )


def _settings_difference(saved: dict[str, Section], now: dict[str, Section]) -> str:
    """Describe the first key that differs and affects training; a key newer than the checkpoint had its default."""
    defaults = Settings().model_dump(mode="json")
    for section in [name for name in now if name in saved]:
        for key, value in now[section].items():
            before = saved[section].get(key, defaults[section][key])
            if key not in HARMLESS[section] and before != value:
                return f"{section}.{key}={before}, now it is {value}"
    return ""


def random_state() -> dict[str, Any]:
    """Return the states of torch's generators (CPU, each CUDA device in use) and Python's, in plain containers."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda, "python": random.getstate()}


def set_random_state(state: dict[str, Any]) -> None:
    """Continue the random numbers from a :func:`random_state`."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
    random.setstate(state["python"])

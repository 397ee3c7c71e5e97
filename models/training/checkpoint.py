"""Checkpoints: written whole or not at all, read without running code from them, resumed exactly."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

import torch

from models.networks.weights import read_tensor_file, state_difference
from slr_bench.errors import ConfigError

FORMAT = "slr-recogniser-checkpoint"
SCHEMA = 1  # 1: first version

# Settings that change memory or messages, never the weights: a checkpoint may be resumed under other values.
HARMLESS = {
    "recompute", "activation_offload", "optimizer_in_backward",
    "enable_memory_tracking", "memory_warning_threshold", "memory_critical_threshold",
}  # fmt: skip


class Stateful(Protocol):
    """Model, optimizer, schedule, gradient scaler."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it: a reader sees the old file or the new one.

    Raises:
        ConfigError: the place cannot be written; an earlier file stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # the rename itself must survive a power cut
        finally:
            os.close(directory)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; free space or choose another directory") from error


def save_checkpoint(
    path: Path, parts: Mapping[str, Stateful], config: dict[str, Any], total_steps: int, progress: dict[str, Any]
) -> None:
    """Write the state of ``parts`` (``model`` among them), the random states and ``progress`` (plain containers).

    Raises:
        ConfigError: the place cannot be written; an earlier checkpoint stays as it was.
    """
    content = {
        "format": FORMAT,
        "schema": SCHEMA,
        "config": config,
        "total_steps": total_steps,
        "progress": progress,
        "random": random_state(),
        "parts": {name: part.state_dict() for name, part in parts.items()},
    }
    write_whole(path, lambda file: torch.save(content, file))


def load_checkpoint(
    path: Path, parts: Mapping[str, Stateful], config: dict[str, Any], total_steps: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Put a checkpoint's state into ``parts``; returns its ``progress`` and random state, which is not set yet.

    Raises:
        ConfigError: missing, truncated or foreign file, another network, or settings that would train otherwise.
            Nothing has been loaded then.
    """
    content = read_tensor_file(path, "checkpoint")
    if content.get("format") != FORMAT or content.get("schema") != SCHEMA:
        raise ConfigError(f"checkpoint: {path} was not written by this trainer (schema {SCHEMA}); train anew")
    network = state_difference(parts["model"].state_dict(), content["parts"]["model"])
    if network:
        raise ConfigError(f"checkpoint: {path} is of another network: {network}; resume with the same model settings")
    for key, value in config.items():
        if key not in HARMLESS and content["config"].get(key) != value:
            raise ConfigError(
                f"checkpoint: {path} was made with training.{key}={content['config'].get(key)}, now it is {value}; "
                "resume with the same settings"
            )
    if content["total_steps"] != total_steps:
        raise ConfigError(
            f"checkpoint: {path} was made for {content['total_steps']} optimizer steps, now there are {total_steps}; "
            "resume with the same data"
        )
    for name, part in parts.items():
        part.load_state_dict(content["parts"][name])
    return content["progress"], content["random"]


def random_state() -> dict[str, Any]:
    """States of torch's generators (CPU, every CUDA device in use) and of Python's own, in plain containers."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda, "python": random.getstate()}


def set_random_state(state: dict[str, Any]) -> None:
    """Continue the random numbers where :func:`random_state` was taken."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
    random.setstate(state["python"])

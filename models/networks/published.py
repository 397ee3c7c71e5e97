"""Reads published checkpoints as they come: wrappers around the state dict, prefixes of names, the order of colours.

Programs store the same network in many ways. Names are reduced to those of the plain network:

* training loops put the state dict under ``state_dict``, ``model_state_dict`` or ``model``;
* ``DataParallel``, ``DistributedDataParallel``, ``torch.compile``, FSDP and ``AveragedModel`` add a name of their own;
* temporal shift (mit-han-lab/temporal-shift-module) has ``module.base_model.layer1.0.conv1.net.weight`` and ``new_fc``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from models.networks.tensor_file import read_tensor_file
from models.networks.weights import (
    CHECKPOINT_FORMAT,
    Glosses,
    Target,
    load_backbone,
    load_network,
    trained_glosses,
)
from slr_bench.errors import ConfigError
from slr_bench.units import plain

_WRAPPERS = ("state_dict", "model_state_dict", "model", "model_state", "net", "network")
_ADDED = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "net"}
"""Parts of names that programs add around a module. ``net`` is that of temporal shift, and of our 3-D networks."""
_COUNTER_OF_AVERAGES = "n_averaged"
_WLASL_CLASSES = (100, 300, 1000, 2000)
_I3D_CLASSIFIER = "logits.conv3d.weight"

ChannelOrder = Literal["auto", "rgb", "bgr"]


class Weights(NamedTuple):
    """The tensors of a file of weights, with the names of the plain network."""

    state: dict[str, Any]
    glosses: Glosses | None
    """The words that the classifier was trained on; None if the file does not name them."""
    is_published: bool
    """The file comes from another program than this project's trainer."""
    is_bare: bool
    """The file holds the state dict itself, without a wrapper or a prefix."""

    @property
    def is_wlasl_i3d(self) -> bool:
        """True for the I3D networks that the authors of WLASL published.

        Their names are those of the Kinetics files, but these have 400 classes. They saved the bare state dict
        (``torch.save(i3d.module.state_dict(), ...)`` in dxli94/WLASL, ``code/I3D/train_i3d.py``).
        """
        weight = self.state.get(_I3D_CLASSIFIER)
        return self.is_published and self.is_bare and isinstance(weight, Tensor) and len(weight) in _WLASL_CLASSES


def read_weights(path: Path) -> Weights:
    """Read a published state dict, or the network in a checkpoint of the trainer.

    Raises:
        ConfigError: the file is unreadable, holds no tensors, or is a checkpoint without a network.
    """
    return weights_in(read_tensor_file(path, "model.weights"), path)


def weights_in(content: dict[str, Any], path: Path) -> Weights:
    """Return the weights in the content of the file ``path``.

    Raises:
        ConfigError: it holds no tensors, or is a checkpoint without a network.
    """
    if content.get("format") != CHECKPOINT_FORMAT:
        state = _innermost(content)
        if not any(isinstance(value, Tensor) for value in state.values()):
            entries = plain(", ".join(map(str, state)), 80) or "none"
            raise ConfigError(
                f"model.weights: {path} holds no tensors by name (its entries: {entries}); use a file of "
                "torch.save(model.state_dict(), FILE)"
            )
        named = _plain_names(state)
        return Weights(named, None, True, state is content and set(named) == set(state))
    try:
        return Weights(_plain_names(content["parts"]["model"]), trained_glosses(content), False, False)
    except (KeyError, TypeError, AttributeError):
        raise ConfigError(f"model.weights: {path} is a checkpoint without a network; use another copy of it") from None


def _innermost(content: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
    return content if inner is None else _innermost(inner)


def _plain_names(state: Mapping[str, Any]) -> dict[str, Any]:
    values = {str(name): value for name, value in state.items() if name != _COUNTER_OF_AVERAGES}
    named = {_plain_name(name): value for name, value in values.items()}
    return named if len(named) == len(values) else values  # if two names become one, these were no prefixes


def _plain_name(name: str) -> str:
    parts = [part for part in name.split(".") if part not in _ADDED]
    if parts[:1] == ["base_model"]:
        del parts[0]
    if parts[:1] == ["new_fc"]:
        parts[0] = "fc"
    return ".".join(parts)


def load_weights(target: Target, weights: Weights, path: Path, order: ChannelOrder, wanted: Glosses | None) -> None:
    """Load ``weights`` of the file ``path`` into ``target``. ``wanted`` are the words of the data, if they are known.

    Raises:
        ConfigError: names or shapes do not match.
    """
    state = in_rgb(weights, target.first, order, path)
    if target.classifier is not None:
        load_network(target, state, path, weights.glosses, wanted)
        return
    load_backbone(target, state, path)
    classifier = state.get("fc.weight")
    if isinstance(classifier, Tensor) and not weights.is_bare:  # ImageNet's files are bare
        warnings.warn(
            f"model.weights: {path}: its classifier of {len(classifier)} classes is not loaded: the layers after the "
            "backbone start from scratch",
            stacklevel=3,
        )


def in_rgb(weights: Weights, first: str, order: ChannelOrder, path: Path) -> dict[str, Any]:
    """Return the state of a network that takes red, green, blue.

    If a network was trained on blue, green, red, the input channels of its first layer are reversed. Each weight then
    meets its own colour. ``first`` is the name of that layer's weight. Networks of the trainer always take RGB.
    ``auto`` recognises the I3D files of WLASL and warns.
    """
    if order == "auto" and weights.is_wlasl_i3d:
        warnings.warn(
            f"model.weights: {path} looks like an I3D of the WLASL authors, which was trained on blue, green, red: the "
            "channels of its first layer are reversed to take RGB (model.weights_channel_order: rgb leaves them)",
            stacklevel=4,
        )
        order = "bgr"
    weight = weights.state.get(first)
    if order != "bgr" or not weights.is_published or not isinstance(weight, Tensor) or weight.ndim < 2:
        return weights.state
    return weights.state | {first: weight.flip(1)}

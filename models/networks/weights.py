"""Compares the tensors of a file with those of a module, matches classes by their words, and loads what fits."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from slr_bench.errors import ConfigError
from slr_bench.units import closest

CHECKPOINT_FORMAT = "slr-recogniser-checkpoint"
"""The format name in the trainer's own files."""
NAMED = 3
"""Number of tensors that a message names; further ones are counted."""


def state_difference(expected: dict[str, Tensor], found: dict[str, Any]) -> str:
    """Describe in one line how two state dicts differ: names and shapes; return "" if they agree."""
    missing = [name for name in expected if name not in found]
    unknown = [str(name) for name in found if name not in expected]
    shapes = [
        f"{name} is {shape}, expected {tuple(value.shape)}"
        for name, value in expected.items()
        if name in found and (shape := _shape(found[name])) != tuple(value.shape)
    ]
    parts = [_named(missing, "missing"), _named(unknown, "unknown")]
    if shapes:
        parts.insert(1, shapes[0] + (f", and {len(shapes) - 1} more have another shape" if len(shapes) > 1 else ""))
    if 0 < len(missing) <= NAMED and (near := closest(missing[0], unknown)):
        parts.append(f"did you mean {near!r} for {missing[0]}?")
    return "; ".join(filter(None, parts))


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _named(names: list[str], what: str) -> str:
    if len(names) <= 1:
        return f"{names[0]} is {what}" if names else ""
    more = ", …" if len(names) > NAMED else ""
    return f"{len(names)} tensors are {what} ({', '.join(names[:NAMED])}{more})"


Glosses = tuple[str, ...]
"""The word of each class, in the order of the classifier's outputs."""


def trained_glosses(checkpoint: dict[str, Any]) -> Glosses | None:
    """Return the words that a checkpoint was trained on; None if it does not name them, as older ones do not."""
    glosses = checkpoint.get("glosses")
    if not isinstance(glosses, list) or not all(isinstance(gloss, str) for gloss in glosses):
        return None
    return tuple(glosses) if any(glosses) else None


def class_order(trained: Glosses, wanted: Glosses) -> list[int] | None:
    """Return the trained class of each wanted word; None if one of the words was not trained, or is ambiguous.

    Classes without a word, which no clip has, take the trained classes without one.
    """
    classes: dict[str, list[int]] = {}
    for number, gloss in enumerate(trained):
        classes.setdefault(gloss, []).append(number)
    unnamed = iter(classes.pop("", []))
    if any(len(numbers) > 1 for numbers in classes.values()):
        return None
    order = [classes[gloss][0] if gloss in classes else next(unnamed, None) if not gloss else None for gloss in wanted]
    return None if None in order else [number for number in order if number is not None]


class Target(NamedTuple):
    """The part of a network that a file of weights fills."""

    module: nn.Module
    first: str
    """Name of the weight that meets the colours."""
    classifier: str | None
    """Name of the layer whose shape depends on the number of classes; None if the part has none."""
    cure: str
    """The weights to use if the tensors do not match."""


def load_network(
    target: Target,
    state: dict[str, Any],
    path: Path,
    trained: Glosses | None = None,
    wanted: Glosses | None = None,
) -> None:
    """Load a network. A classifier of other classes is left unchanged, with a warning.

    If ``trained`` and ``wanted``, the words of the file and of the data, are known, they decide: a classifier that
    knows all wanted words is put into their order, and any other one starts from scratch.

    Files from before torch 0.4.1 lack the batch counters, and load without them.

    Raises:
        ConfigError: names or shapes do not match this network.
    """
    network, classifier = target.module, target.classifier
    expected = network.state_dict()
    state = {name: value for name, value in expected.items() if name.endswith("num_batches_tracked")} | state
    names = [name for name in expected if name.startswith(f"{classifier}.")]
    own, found = expected[names[0]], state.get(names[0])
    if isinstance(found, Tensor) and found.shape[1:] == own.shape[1:]:
        other = _other_classes(len(found), len(own), trained, wanted)
        if isinstance(other, str):
            warnings.warn(
                f"model.weights: {path} {other}: everything except its {classifier} is loaded; that layer starts from "
                "scratch",
                stacklevel=3,
            )
            state |= {name: expected[name] for name in names}
        else:
            fitting = [name for name in names if _shape(state.get(name))[:1] == _shape(found)[:1]]
            state |= {name: state[name][other] for name in fitting}
            if trained is None and wanted is not None:
                warnings.warn(
                    f"model.weights: {path} does not name its words: its {classifier} is loaded by class number",
                    stacklevel=3,
                )
    difference = state_difference(expected, state)
    if difference:
        raise ConfigError(f"model.weights: {path} does not fit: {difference}; {target.cure}")
    network.load_state_dict(state)


def _other_classes(found: int, own: int, trained: Glosses | None, wanted: Glosses | None) -> list[int] | str:
    """Return the rows of the classifier to load, in order; or the reason why it cannot be used."""
    if trained is None or wanted is None or len(trained) != found or len(wanted) != own:
        return list(range(own)) if found == own else f"has {found} classes, model.num_classes is {own}"
    order = class_order(trained, wanted)
    if order is not None:
        return order
    new = sorted(set(wanted) - set(trained))
    return f"was trained on other words (not on {', '.join(map(repr, new[:3]))})" if new else "names a word twice"


def load_backbone(target: Target, state: dict[str, Any], path: Path) -> None:
    """Load the state dict of a ResNet into a backbone, without its classifier (``fc.*``).

    Raises:
        ConfigError: names or shapes do not match this backbone.
    """
    state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    expected = target.module.state_dict()
    if "bn1.running_mean" in state and "bn1.running_mean" not in expected:
        raise ConfigError(
            f"model.weights: {path} was trained with batch norm, whose scales do not apply to model.norm: group; "
            "use model.norm: batch, or model.weights: null"
        )
    if "layer1.0.conv3.weight" in state:
        raise ConfigError(
            f"model.weights: {path} is a ResNet of three convolutions per block (ResNet-50 and deeper); "
            "use weights of a resnet18 or resnet34, the choices of model.backbone"
        )
    if difference := state_difference(expected, state):
        raise ConfigError(f"model.weights: {path} does not fit: {difference}; {target.cure}")
    target.module.load_state_dict(state)

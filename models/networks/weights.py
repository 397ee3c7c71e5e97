"""Reads files of tensors without running code from them, and compares them with the tensors of a module."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from slr_bench.errors import ConfigError
from slr_bench.units import nearest

# The errors of torch.load on bytes that are not a file of tensors, found with truncated and random files.
_NOT_TENSORS = (
    OSError, EOFError, RuntimeError, ValueError, LookupError, AttributeError, TypeError, AssertionError,
    pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
CHECKPOINT_FORMAT = "slr-recogniser-checkpoint"
"""The format name in the trainer's own files."""
_ARCHIVE = b"PK\x03\x04"
_IS_DIRECTORY = 0x10


def read_tensor_file(path: Path, what: str) -> dict[str, Any]:
    """Return the dictionary that ``torch.save`` wrote to ``path``, on the CPU. ``what`` begins every message.

    Also checks the checksums of the file, which torch ignores. This reads the file once more, 1 MiB at a time (0.5 s
    for 480 MiB). Files from before torch 1.6 have no checksums. A file written after ``set_crc32_options(False)`` has
    wrong ones and is refused.

    Raises:
        ConfigError: the file is missing, unreadable, truncated, damaged or foreign.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigError(f"{what}: cannot read {path}: {error.strerror}; check the path") from error
    with file:
        try:
            damaged = _damaged_record(file)
            content = None if damaged else torch.load(file, map_location="cpu", weights_only=True)
        except _NOT_TENSORS as error:
            raise ConfigError(
                f"{what}: {path} is truncated or not a file of tensors; use a complete file of torch.save"
            ) from error
    if damaged:
        raise ConfigError(f"{what}: {path} is damaged in its record {damaged}; use another copy of it")
    if not isinstance(content, dict):
        raise ConfigError(f"{what}: {path} holds a {type(content).__name__}; expected a dictionary of tensors")
    return content


def _damaged_record(file: IO[bytes]) -> str | None:
    """Return the first record of an archive that differs from its checksum, and rewind the file.

    One bit that no checksum covers is checked too: it marks a record as a directory, which torch would read as empty.
    """
    damaged = None
    if file.read(len(_ARCHIVE)) == _ARCHIVE:
        archive = zipfile.ZipFile(file)
        directories = (record.filename for record in archive.infolist() if record.external_attr & _IS_DIRECTORY)
        damaged = next(directories, None) or archive.testzip()
    file.seek(0)
    return damaged


def state_difference(expected: dict[str, Tensor], found: dict[str, Any]) -> str:
    """Describe the first difference between two state dicts; return "" when names and shapes agree."""
    unknown = [str(name) for name in found if name not in expected]
    for name, value in expected.items():
        if name not in found:
            return f"{name} is missing{nearest(name, unknown) if unknown else ''}"
        shape = tuple(found[name].shape) if isinstance(found[name], Tensor) else type(found[name]).__name__
        if shape != tuple(value.shape):
            return f"{name} is {shape}, expected {tuple(value.shape)}"
    return f"{unknown[0]} is unknown" if unknown else ""


Glosses = tuple[str, ...]
"""The word of each class, in the order of the classifier's outputs."""


def trained_glosses(checkpoint: dict[str, Any]) -> Glosses | None:
    """Return the words that a checkpoint was trained on; None if it does not name them, as older ones do not."""
    glosses = checkpoint.get("glosses")
    is_list = isinstance(glosses, list) and all(isinstance(gloss, str) for gloss in glosses)
    return tuple(glosses) if is_list and any(glosses) else None


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


def read_weights(path: Path) -> tuple[dict[str, Any], Glosses | None]:
    """Read a state dict, or the network in a checkpoint of the trainer with the words that it was trained on.

    Raises:
        ConfigError: the file is unreadable, or a checkpoint without a network.
    """
    content = read_tensor_file(path, "model.weights")
    if content.get("format") != CHECKPOINT_FORMAT:
        return content, None
    try:
        return dict(content["parts"]["model"]), trained_glosses(content)
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"model.weights: {path} is a checkpoint without a network; use another copy of it") from None


def load_network(
    network: nn.Module,
    state: dict[str, Any],
    classifier: str,
    path: Path,
    cure: str,
    trained: Glosses | None = None,
    wanted: Glosses | None = None,
) -> None:
    """Load a network. A ``classifier`` of other classes is left unchanged, with a warning.

    If ``trained`` and ``wanted``, the words of the file and of the data, are known, they decide: a classifier that
    knows all wanted words is put into their order, and any other one starts from scratch.

    Files from before torch 0.4.1 lack the batch counters, and load without them.

    Raises:
        ConfigError: names or shapes do not match this network; ``cure`` states what to use instead.
    """
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
            state |= {name: state[name][other] for name in names if isinstance(state.get(name), Tensor)}
    difference = state_difference(expected, state)
    if difference:
        raise ConfigError(f"model.weights: {path} does not fit: {difference}; {cure}")
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


def load_backbone(backbone: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Load a torchvision ResNet state dict into a backbone, without its classifier (``fc.*``).

    Raises:
        ConfigError: names or shapes do not match this backbone.
    """
    state = {name: value for name, value in state.items() if not str(name).startswith("fc.")}
    expected = backbone.state_dict()
    if "bn1.running_mean" in state and "bn1.running_mean" not in expected:
        raise ConfigError(
            f"model.weights: {path} was trained with batch norm, whose scales do not apply to model.norm: group; "
            "use model.norm: batch, or model.weights: null"
        )
    difference = state_difference(expected, state)
    if difference:
        raise ConfigError(
            f"model.weights: {path} does not fit: {difference}; "
            "use weights of this model.backbone and model.base_channels (torchvision: 64)"
        )
    backbone.load_state_dict(state)

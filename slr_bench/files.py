"""Shared by the bench and the recogniser: writing whole files, dotted keys, and ``--set KEY=VALUE``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Final

import yaml

from slr_bench.errors import ConfigError

Values = dict[str, Any]
"""Nested sections of keys, as a YAML file holds them: ``{"training": {"batch_size": 4}}``."""
Overrides = dict[str, Any]
"""Dotted key -> value: ``{"optimizer.lr": 0.1}``."""
Content = str | bytes | Callable[[IO[bytes]], object]
"""The content of a file, or a function that writes it into an open file."""

_ANOTHER_DIRECTORY: Final = "free space or choose another directory"


def write_atomically(
    path: Path, content: Content, *, cure: str = _ANOTHER_DIRECTORY, make_directory: bool = False
) -> None:
    """Write a file so that a reader sees the old file or the new one, whole, even after a power cut.

    Raises:
        ConfigError: The file cannot be written; an earlier one is unchanged. The message ends with ``cure``.
    """
    try:
        if make_directory:
            path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    except (OSError, RuntimeError) as error:
        # When the disk is full, torch.save raises a RuntimeError while it handles the system's error.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise ConfigError(f"cannot write {path}: {cause.strerror}; {cure}") from error


def replace_file(path: Path, content: Content, *, durable: bool = True) -> None:
    """Write a hidden temporary file (``.NAME.PID.tmp``) beside ``path`` and rename it to ``path``.

    Without ``durable`` a power cut may lose the file; that is much faster for thousands of small files.

    Raises:
        OSError: The file cannot be written; an earlier one is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # without it a power cut can undo the rename
        finally:
            os.close(directory)


def require_pandas() -> None:
    """Check that pandas is there before a table is made.

    Raises:
        ConfigError: It is not installed.
    """
    if find_spec("pandas") is None:
        raise ConfigError("tables need pandas, which is not installed; pip install 'slr-bench[tables]'")


def why_unreadable(error: OSError | UnicodeDecodeError) -> str | None:
    """Return why a text file cannot be read, without its path."""
    return error.strerror if isinstance(error, OSError) else "it is not text"


def flatten(values: Mapping[str, Any], prefix: str = "") -> Overrides:
    """Turn sections into dotted keys: ``{"a": {"b": 1}}`` -> ``{"a.b": 1}``."""
    flat: Overrides = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nest(values: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> Values:
    """Turn dotted keys into sections: ``{"a.b": 1}`` -> ``{"a": {"b": 1}}``, laid over a copy of ``base``.

    Raises:
        ConfigError: A key is both a value and a section.
    """
    nested = _copied(base or {})
    for key, value in values.items():
        *sections, name = str(key).split(".")
        node = nested
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{key!r}: {section!r} is a value, not a section of keys; it is {node!r}, remove it")
        node[name] = value
    return nested


def _copied(values: Mapping[str, Any]) -> Values:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def lookup(values: object, key: str) -> Any:
    """Return ``values["a"]["b"]`` for the dotted key ``"a.b"``; None if there is no such key."""
    for name in key.split("."):
        if not isinstance(values, Mapping) or name not in values:
            return None
        values = values[name]
    return values


def parse_overrides(texts: Iterable[str] | None) -> Overrides:
    """Read the values of ``--set KEY=VALUE``; a later one wins over an earlier one with the same key.

    Raises:
        ConfigError: A text has no ``=`` or no key, or its value is not YAML.
    """
    return dict(parse_override(text) for text in texts or ())


def parse_override(text: str) -> tuple[str, Any]:
    """Read one ``KEY=VALUE``: ``"section.key=4"`` -> ``("section.key", 4)``. The value is YAML.

    Raises:
        ConfigError: The text has no ``=`` or no key, or its value is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r} is not KEY=VALUE; write it like --set section.key=4")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text!r}: the value is not valid YAML; quote it") from error

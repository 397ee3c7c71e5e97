"""Reads YAML files and checks them against a pydantic model; every mistake becomes one line that names its cure."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from slr_bench.errors import ConfigError
from slr_bench.files import Values, parse_yaml, read_yaml_text, short_repr
from slr_bench.units import closest, nearest

ModelT = TypeVar("ModelT", bound=BaseModel)

_SECTION_TYPES = ("model_type", "dict_type", "list_type", "tuple_type")


def read_yaml(path: Path) -> Values:
    """Read a YAML file that holds a mapping of keys.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or holds no mapping.
    """
    text = read_yaml_text(path)
    try:
        values = parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(_no_mapping(values, str(path), "the file"))
    return values


def _no_mapping(values: Any, where: str, what: str) -> str:
    if values is None:
        return f"{where}: {what} is empty; give it keys, or leave it out"
    return f"{where}: expected a mapping of keys, got {short_repr(values)}"


def validate(model: type[ModelT], values: Any, where: str, changed: Collection[str] = ()) -> ModelT:
    """Check ``values`` as a ``model``; every message begins with ``where`` (a file or an option).

    Mistakes in the dotted keys ``changed`` are those of the command line, which was laid over the file.

    Raises:
        ConfigError: One line per mistake; the nearest known key is offered for an unknown one.
    """
    if not isinstance(values, dict):
        raise ConfigError(_no_mapping(values, where, "it"))
    try:
        return model.model_validate(values)
    except ValidationError as error:
        _raise_as_config_error(model, error, where, changed)


def _raise_as_config_error(
    model: type[BaseModel], error: ValidationError, where: str, changed: Collection[str]
) -> NoReturn:
    items = error.errors(include_url=False)
    lines = [
        f"{_origin(item, where, changed)}: {_describe(model, item)}" for item in items if not _follows(item, items)
    ]
    raise ConfigError("\n".join(lines)) from error


def _origin(item: ErrorDetails, where: str, changed: Collection[str]) -> str:
    """Name the file, the command line, or both where a rule joins keys of a section that the command line changed."""
    place = "".join(f"{part}." for part in item["loc"])
    if any(place.startswith(f"{key}.") for key in changed):
        return "the command line"
    return f"{where} with the command line" if any(key.startswith(place) for key in changed) else where


def _follows(item: ErrorDetails, items: list[ErrorDetails]) -> bool:
    """Return whether a list is too short only because its bad entries do not count; those have lines of their own."""
    place = item["loc"]
    return item["type"] == "too_short" and any(
        other["loc"][: len(place)] == place and len(other["loc"]) > len(place) for other in items
    )


def _describe(model: type[BaseModel], item: ErrorDetails) -> str:
    path = [str(part) for part in item["loc"]]
    key = ".".join(path)
    if item["type"] == "extra_forbidden":
        return f"unknown key {key!r}{_nearest_key(model, path)}"
    if item["type"] == "missing":
        return f"key {key!r} is missing"
    if item["input"] is None and item["type"] in _SECTION_TYPES:
        return _no_mapping(None, key, "the section")
    message = str(item["msg"]).removeprefix("Value error, ")
    if not key:
        return message
    if isinstance(item["input"], dict) and item["type"] == "value_error":  # a section's rule names the keys
        return f"{key}: {message}"
    return f"{key}: {message}; got {short_repr(item['input'])}"


def _nearest_key(model: type[BaseModel], path: list[str]) -> str:
    """Name the key that was meant, in this section or in another: ``loader.workers`` for ``trainer.workers``."""
    owner = _model_at(model, path[:-1])
    if owner is None:
        return ""
    shown = {name: name for name in owner.model_fields}
    for section in model.model_fields:
        inside = _model_at(model, [section])
        for name in inside.model_fields if inside else ():
            shown.setdefault(name, f"{section}.{name}")
    close = closest(path[-1], shown)
    return f"; did you mean {shown[close]!r}?" if close else nearest(path[-1], owner.model_fields)


def _model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    for name in path:
        if name.isdigit():  # an index into a list of this model
            continue
        field = model.model_fields.get(name)
        inside = [field.annotation, *get_args(field.annotation)] if field else []
        found = next((kind for kind in inside if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if found is None:
            return None
        model = found
    return model

"""One error tree, and the readers that turn a bad configuration into it.

Each class knows its exit code; the command line catches the root once and prints one line.

A message says what is wrong, what was found, and the cure.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

ModelT = TypeVar("ModelT", bound=BaseModel)

_CLOSE = 0.5
"""From this likeness on a name is offered for an unknown one."""
_SECTION_TYPES = ("model_type", "dict_type", "list_type", "tuple_type")

EXIT_OK = 0
EXIT_REGRESSION = 1
EXIT_USAGE = 2
EXIT_NO_BASELINE = 3
EXIT_NOT_COMPARABLE = 4
EXIT_NOTHING_MEASURED = 5
EXIT_DOES_NOT_FIT = 6
EXIT_CELL_CRASHED = 7
EXIT_INTERRUPTED = 130


class SlrBenchError(Exception):
    """Root of every error that is the user's or the machine's to mend."""

    exit_code = EXIT_USAGE


def warn_in_one_line() -> None:
    """For a command: what is merely unwise is told to the user, without the line of our source that noticed it."""
    warnings.formatwarning = lambda message, *_: f"warning: {' '.join(str(message).split())}\n"


class ConfigError(SlrBenchError):
    """A configuration, an option or an output place that cannot work."""


class DataError(SlrBenchError):
    """A data directory, manifest or video that cannot be used."""


class NothingMeasuredError(SlrBenchError):
    """Every cell ended without a measurement, or the run directory holds none."""

    exit_code = EXIT_NOTHING_MEASURED


class CellCrashedError(SlrBenchError):
    """The one cell that was asked for crashed or timed out."""

    exit_code = EXIT_CELL_CRASHED


class NoBaselineError(SlrBenchError):
    """There is nothing to compare with: no such run directory, or none of its runs ended ok."""

    exit_code = EXIT_NO_BASELINE


class NotComparableError(SlrBenchError):
    """Two sides that have no cell in common."""

    exit_code = EXIT_NOT_COMPARABLE


class InterruptedRunError(SlrBenchError):
    """The user ended a command; what is kept of its work the message says."""

    exit_code = EXIT_INTERRUPTED


class UnsupportedSettingError(SlrBenchError):
    """The setting is meaningful but cannot run on this machine (fp16 without a device for it, CUDA without a GPU)."""


class ProbeUnavailableError(SlrBenchError):
    """A meter cannot read its quantity here; the metric becomes null with this reason."""


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'batch_size'?"``, or the list of known names when nothing is near."""
    known = sorted(known)
    return did_you_mean(name, known) or f"; known: {', '.join(known)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'batch_size'?"``, or nothing when nothing is near."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=_CLOSE)
    return f"; did you mean {close[0]!r}?" if close else ""


def why_unreadable(error: OSError | UnicodeDecodeError) -> str | None:
    """Of a text file, without its path."""
    return error.strerror if isinstance(error, OSError) else "it is not text"


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping.

    Raises:
        ConfigError: unreadable, not YAML, or not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read configuration {path}: {why_unreadable(error)}; check the path") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {_yaml_mistake(error)}") from error
    if not isinstance(values, dict):
        raise ConfigError(_no_mapping(values, str(path), "the file"))
    return values


def _yaml_mistake(error: yaml.YAMLError) -> str:
    """What is wrong where; the parser's own text calls every file ``<unicode string>``."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"character {error.position + 1}: {error.reason}"
    return type(error).__name__


def _no_mapping(values: Any, where: str, what: str) -> str:
    if values is None:
        return f"{where}: {what} is empty; give it keys, or leave it out"
    return f"{where}: expected a mapping of keys, got {_short(values)}"


def checked(model: type[ModelT], values: Any, where: str) -> ModelT:
    """Validate ``values`` as a ``model``; ``where`` (a file or an option) begins the message.

    Raises:
        ConfigError: one line a mistake, the nearest known key offered for an unknown one.
    """
    if not isinstance(values, dict):
        raise ConfigError(_no_mapping(values, where, "it"))
    try:
        return model.model_validate(values)
    except ValidationError as error:
        _raise_as_config_error(model, error, where)


def _raise_as_config_error(model: type[BaseModel], error: ValidationError, where: str) -> NoReturn:
    items = error.errors(include_url=False)
    lines = [f"{where}: {_describe(model, item)}" for item in items if not _follows(item, items)]
    raise ConfigError("\n".join(lines)) from error


def _follows(item: Any, items: list[Any]) -> bool:
    """Whether a list is called too short only because its bad entries were not counted; they have their own lines."""
    place = item["loc"]
    return item["type"] == "too_short" and any(
        other["loc"][: len(place)] == place and len(other["loc"]) > len(place) for other in items
    )


def _describe(model: type[BaseModel], item: Any) -> str:
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
    if isinstance(item["input"], dict) and item["type"] == "value_error":  # of a whole section: it names its keys
        return f"{key}: {message}"
    return f"{key}: {message}; got {_short(item['input'])}"


def _nearest_key(model: type[BaseModel], path: list[str]) -> str:
    """The key meant, of its own section or of another: ``model.num_frames`` for ``data.num_frames``."""
    owner = _model_at(model, path[:-1])
    if owner is None:
        return ""
    shown = {name: name for name in owner.model_fields}
    for section in model.model_fields:
        inside = _model_at(model, [section])
        for name in inside.model_fields if inside else ():
            shown.setdefault(name, f"{section}.{name}")
    close = difflib.get_close_matches(path[-1], shown, n=1, cutoff=_CLOSE)
    return f"; did you mean {shown[close[0]]!r}?" if close else nearest(path[-1], owner.model_fields)


def _model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    for name in path:
        if name.isdigit():  # a place in a list of the model found last
            continue
        field = model.model_fields.get(name)
        inside = [field.annotation, *get_args(field.annotation)] if field else []
        found = next((kind for kind in inside if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if found is None:
            return None
        model = found
    return model


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

"""Shared by the bench and the recogniser: writing whole files, strict YAML, dotted keys, and ``--set KEY=VALUE``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Final, NoReturn

import yaml

from slr_bench.errors import ConfigError

Values = dict[str, Any]
"""Nested sections of keys, as a YAML file holds them: ``{"training": {"batch_size": 4}}``."""
Overrides = dict[str, Any]
"""Dotted key -> value: ``{"optimizer.lr": 0.1}``."""
Content = str | bytes | Callable[[IO[bytes]], object]
"""The content of a file, or a function that writes it into an open file."""

_ANOTHER_DIRECTORY: Final = "free space or choose another directory"
_LARGEST_YAML_BYTES: Final = 4 * 2**20
_DEEPEST_YAML: Final = 50
_MOST_YAML_VALUES: Final = 200_000
_LONGEST_NUMBER: Final = 40


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
        # At a full disk, or at Ctrl-C, torch.save raises a RuntimeError while it handles the first error.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, KeyboardInterrupt):
            raise cause from None
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


class _RefusedError(yaml.MarkedYAMLError):
    """Valid YAML that is not accepted."""


class _StrictLoader(yaml.SafeLoader):
    """Reads YAML, and refuses what PyYAML accepts although the writer meant something else.

    Each refusal has its line and column. A key that is written twice is refused, and so are ``010`` and ``1:30``, which
    YAML 1.1 reads as 8 and 90. There are limits for depth, for the length of numbers and for what aliases multiply. A
    date stays text.
    """

    yaml_implicit_resolvers = {
        start: [resolver for resolver in resolvers if resolver[0] != "tag:yaml.org,2002:timestamp"]
        for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if self._depth > _DEEPEST_YAML:
            _refuse(event, f"nested more than {_DEEPEST_YAML} levels deep; use fewer levels")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent) and id(node) not in self._sizes:
            _refuse(event, f"*{event.anchor} contains itself; write its values out")
        if node is not None and id(node) not in self._sizes:
            self._check(node)
        return node

    def _check(self, node: yaml.Node) -> None:
        """Check a node whose parts have been checked, and remember how many values it has without aliases."""
        inside: list[yaml.Node] = []
        if isinstance(node, yaml.ScalarNode):
            _check_number(node)
        elif isinstance(node, yaml.MappingNode):
            _check_keys([key for key, _ in node.value])
            inside = [part for pair in node.value for part in pair]
        else:
            inside = node.value
        self._sizes[id(node)] = size = 1 + sum(self._sizes[id(part)] for part in inside)
        if size > _MOST_YAML_VALUES:
            _refuse(node, f"more than {_MOST_YAML_VALUES:,} values when its aliases are written out; write fewer")

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:
            if not isinstance(node, yaml.ScalarNode):
                raise
            kind = node.tag.rpartition(":")[2]
            return _refuse(node, f"the tag !!{kind} does not suit {short_repr(node.value)}; remove the tag", error)


def _check_keys(keys: list[yaml.Node]) -> None:
    first: dict[tuple[str, str], yaml.Node] = {}
    for key in keys:
        if isinstance(key, yaml.ScalarNode):
            known = first.setdefault((key.tag, key.value), key)
            if known is not key:
                line = known.start_mark.line + 1
                _refuse(key, f"key {short_repr(key.value)} is written twice, first in line {line}; keep one")


def _check_number(node: yaml.ScalarNode) -> None:
    kind = node.tag.rpartition(":")[2]
    if kind not in ("int", "float"):
        return
    text = node.value.lstrip("+-").replace("_", "")
    if len(text) > _LONGEST_NUMBER:
        _refuse(node, f"a number of {len(text):,} characters; write at most {_LONGEST_NUMBER}")
    if ":" in text:
        _refuse(node, f"YAML reads {node.value} as a number to the base of 60; quote it, or write the number")
    if kind == "int" and len(text) > 1 and text[0] == "0" and text[1].isdigit():
        _refuse(node, f"YAML reads {node.value} as an octal number; write it without the leading 0, or quote it")


def _refuse(place: Any, problem: str, cause: Exception | None = None) -> NoReturn:
    raise _RefusedError(problem=problem, problem_mark=place.start_mark) from cause


def short_repr(value: Any) -> str:
    """Return a value as a message shows it: its ``repr``, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def parse_yaml(text: str) -> Any:
    """Read YAML that a person wrote: nothing is dropped or reinterpreted in silence (see ``_StrictLoader``).

    Raises:
        ConfigError: The text is not YAML, or says something that its writer can hardly have meant. The message has the
            line and the column.
    """
    try:
        loader = _StrictLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        invalid = "" if isinstance(error, _RefusedError) else "not valid YAML: "
        raise ConfigError(f"{invalid}{place}{error.problem}") from error
    except yaml.reader.ReaderError as error:
        raise ConfigError(f"not valid YAML: character {error.position + 1}: {error.reason}") from error


def read_yaml_text(path: Path) -> str:
    """Read the text of a YAML file in UTF-8.

    Raises:
        ConfigError: The file cannot be read, or is larger than 4 MiB (so that ``/dev/zero`` has an end).
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_YAML_BYTES + 1)
        if len(content) > _LARGEST_YAML_BYTES:
            raise ConfigError(f"cannot read configuration {path}: it is larger than 4 MiB; check the path")
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read configuration {path}: {why_unreadable(error)}; check the path") from error


def flatten(values: Mapping[str, Any], prefix: str = "") -> Overrides:
    """Turn sections into dotted keys: ``{"a": {"b": 1}}`` -> ``{"a.b": 1}``.

    Raises:
        ConfigError: A key is written twice, in a section and as a dotted key.
    """
    flat: Overrides = {}
    for key, value in values.items():
        inside = flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        for name in inside.keys() & flat.keys():
            raise ConfigError(f"key {name!r} is written twice, in a section and as a dotted key; keep one")
        flat |= inside
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
        return key.strip(), parse_yaml(value)
    except ConfigError as error:
        raise ConfigError(f"--set {text!r}: {error}") from error

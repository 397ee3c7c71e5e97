"""Describes the keys of training files and grid files: as JSON Schema for editors, and as a page of Markdown."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from slr_bench.errors import ConfigError
from slr_bench.grid.config import TRAINING_STEP, GridConfig, Part
from slr_bench.grid.workload import WorkloadSpec, find_workload, registrations

Schema = dict[str, Any]

_DIALECT: Final = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
_DEFS: Final = "#/$defs/"
_PREFIX: Final = "settings."
"""Prefix of the names of the settings' definitions in the schema of a grid."""


_LIMITS: Final = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "multipleOf": "a multiple of {}",
    "minItems": "{} or more entries",
    "minProperties": "{} or more entries",
    "pattern": "`{}`",
}
_HEAD: Final = """# Configuration

<!-- Written by `{command} --markdown`; to change it, change the descriptions of the keys. -->

A **training file** holds one setting: every knob of a step or a training. A **grid file** names a workload, arms and
axes; its cells are settings. Both are YAML. A command reads a training file as a grid of one cell of `{step}`.
A key that is written twice, and a number like `010` or `1:30`, is refused with its line, because YAML would read it as
something else than it seems to say.
A key that is left out has its default. An unknown key is refused with the nearest known key. Some rules concern several
keys; a file that breaks one is refused when it is read, before any process starts.

On the command line, write a key with its sections: `--set {example}`. A grid file has the same form under
`set`, `arms`, `axes` and `exclude`; in `set` and `arms` you can also nest the sections.
"""
_EDITORS: Final = """## Completion in an editor

Editors with a YAML language server complete keys, show their meaning and underline mistakes, if a file names its
schema. Such editors are VS Code (YAML extension), Vim (coc-yaml, or `yamlls` of nvim-lspconfig) and Emacs (lsp-mode).
Write the schemas once:

```bash
{command} > training.schema.json
{command} --grid > grid.schema.json
```

Begin each YAML file with a line that names its schema, relative to that file:

```yaml
# yaml-language-server: $schema=training.schema.json
```

```yaml
# yaml-language-server: $schema=grid.schema.json
```

In PyCharm, add the schemas under *Languages & Frameworks → Schemas and DTDs → JSON Schema Mappings*. The schemas know
the type, the limits and the values of each key, but not the rules that concern several keys. Write them again after
slr-bench or the workload has changed.
"""


class Key(NamedTuple):
    """A dotted key of a schema, like ``optimizer.lr``."""

    name: str
    schema: Schema
    is_section: bool


def training_schema(spec: WorkloadSpec) -> Schema:
    """Return the schema of a workload's training files."""
    return _DIALECT | spec.settings.model_json_schema()


def grid_schema(spec: WorkloadSpec) -> Schema:
    """Return the schema of grid files that measure a workload. Arms, ``set``, axes and exclusions have its keys."""
    schema = _DIALECT | GridConfig.model_json_schema()
    settings = spec.settings.model_json_schema(ref_template=f"{_DEFS}{_PREFIX}{{model}}")
    definitions = settings.pop("$defs", {})
    schema["$defs"] |= {f"{_PREFIX}{name}": definition for name, definition in definitions.items()}
    found = list(keys_of(settings, schema["$defs"]))
    names = workloads_like(spec)
    for part in (schema, schema["$defs"]["Part"]):
        _with_keys(part["properties"], found)
        part["properties"]["workload"] |= {"enum": names}
        if part["properties"]["workload"]["default"] not in names:
            del part["properties"]["workload"]["default"]
            part["required"] = ["workload"]
    properties = schema["properties"]
    base = {"type": "string", "description": "Training file that this arm starts from, in place of the grid's."}
    properties["arms"]["additionalProperties"] = _closed({"base": base} | {key.name: key.schema for key in found})
    file_name = {"type": "string", "description": "File of techniques, relative to the grid file."}
    mapping = {"type": "object", "additionalProperties": properties["techniques"].pop("additionalProperties")}
    del properties["techniques"]["type"]
    properties["techniques"]["anyOf"] = [mapping, file_name]
    return schema


def keys_of(schema: Schema, definitions: Mapping[str, Schema], prefix: str = "") -> Iterator[Key]:
    """Yield every key of a schema, each section before its keys."""
    for name, value in schema.get("properties", {}).items():
        section = definitions.get(value.get("$ref", "").removeprefix(_DEFS))
        is_section = section is not None and "properties" in section
        yield Key(prefix + name, value, is_section)
        if section is not None and is_section:
            yield from keys_of(section, definitions, f"{prefix}{name}.")


def workloads_like(spec: WorkloadSpec) -> list[str]:
    """Return the names of the registered workloads with the same settings, this one first."""
    names = {spec.name: None}
    for registered in sorted({registration.name for registration in registrations()}):
        with contextlib.suppress(ConfigError):  # a workload that does not load does not affect the others
            if find_workload(registered).settings is spec.settings:
                names[registered] = None
    return list(names)


def _with_keys(properties: dict[str, Schema], found: list[Key]) -> None:
    """Add the keys of a setting: ``set`` takes keys and sections, ``axes`` lists of values, ``exclude`` values."""
    values = {key.name: key.schema for key in found if not key.is_section}
    properties["set"] |= _closed({key.name: key.schema for key in found})
    properties["axes"] |= _closed(
        {
            name: {"type": "array", "minItems": 1, "items": value, "description": value.get("description", "")}
            for name, value in values.items()
        }
    )
    properties["exclude"]["items"] = _closed(values)


def _closed(properties: Mapping[str, Schema]) -> Schema:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def reference(spec: WorkloadSpec) -> str:
    """Return the page of all keys of a workload."""
    command = "slr-bench schema" if spec.name == Part().workload else f"slr-bench schema {spec.name}"
    *names, last = (f"`{name}`" for name in workloads_like(spec))
    workloads = f"{', '.join(names)} and {last}" if names else last
    grid = GridConfig.model_json_schema()
    return "\n".join(
        (
            _HEAD.format(command=command, step=TRAINING_STEP, example=f"{spec.micro_batch or 'section.key'}=4"),
            f"## Training files\n\nThe settings of {workloads}.\n",
            *_sections(training_schema(spec)),
            "## Grid files\n",
            *_sections(grid),
            _EDITORS.format(command=command),
        )
    )


def _sections(schema: Schema) -> Iterator[str]:
    """Yield a table of the keys outside sections, one per section, and one per model in a list or a mapping."""
    definitions: Mapping[str, Schema] = schema.get("$defs", {})
    tables: dict[str, list[str]] = {}
    for key in keys_of(schema, definitions):
        section, _, name = key.name.rpartition(".")
        if key.is_section:
            tables[key.name] = []
        else:
            tables.setdefault(section, []).append(_row(name, key.schema, schema))
    for section, rows in tables.items():
        if section:
            yield f"### `{section}`\n"
        if rows:
            yield _table(rows)
    for key in keys_of(schema, definitions):
        inner = _inner_model(key.schema, definitions)
        if inner is not None and not inner["properties"].keys() <= schema["properties"].keys():
            where = f"{key.name}.NAME" if "additionalProperties" in key.schema else f"{key.name}[]"
            yield f"### `{where}`\n\n{_text(inner.get('description', ''))}\n"
            yield _table([_row(name, value, inner) for name, value in inner["properties"].items()])


def _table(rows: list[str]) -> str:
    return "\n".join(("| Key | Type | Default | Limits | Meaning |", "| --- | --- | --- | --- | --- |", *rows, ""))


def _row(name: str, schema: Schema, owner: Schema) -> str:
    required = name in owner.get("required", ())
    default = "required" if required else f"`{_value(schema.get('default'))}`"
    kind, meaning = _type(schema, owner.get("$defs", {})), _text(_meaning(schema, owner))
    cells = (f"`{name}`", kind, default, _limits(schema), meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _meaning(schema: Schema, owner: Schema) -> str:
    text: str = schema.get("description", "")
    inner = _inner_model(schema, owner.get("$defs", {}))
    if inner is None or not inner["properties"].keys() <= owner.get("properties", {}).keys():
        return text
    return f"{text} Keys: {', '.join(f'``{name}``' for name in inner['properties'])}, as above."


def _inner_model(schema: Schema, definitions: Mapping[str, Schema]) -> Schema | None:
    """Return the model of the entries, if the key holds a list or a mapping of models."""
    inner = schema.get("items") or schema.get("additionalProperties")
    return definitions.get(inner.get("$ref", "").rpartition("/")[2]) if isinstance(inner, dict) else None


def _type(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(choice, definitions) for choice in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{_value(value)}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{_value(schema['const'])}`"
    if "$ref" in schema:
        return "mapping"
    kind = schema.get("type")
    if kind == "array":
        inner = _type(schema["items"], definitions) if schema.get("items") else "values"
        return f"list of {inner}" if inner == "values" else f"list of {inner}s"
    if kind == "object":
        values = schema.get("additionalProperties")
        return "mapping of lists" if isinstance(values, dict) and values.get("type") == "array" else "mapping"
    return "path" if schema.get("format") == "path" else str(kind)


def _limits(schema: Schema) -> str:
    choices = [schema, *schema.get("anyOf", ())]
    choices += [choice["items"] for choice in choices if isinstance(choice.get("items"), dict)]
    found = [
        text.format(_value(choice[name])) for choice in choices for name, text in _LIMITS.items() if name in choice
    ]
    return ", ".join(dict.fromkeys(found))


def _value(value: Any) -> str:
    """Return the value as YAML writes it."""
    if isinstance(value, float) and value == int(value):
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value)


def _text(description: str) -> str:
    """Return a docstring as one line of Markdown."""
    words = " ".join(description.split()).replace("``", "`")
    parts = words.split("`")
    return "`".join(part if number % 2 else part.replace("<", "\\<") for number, part in enumerate(parts))

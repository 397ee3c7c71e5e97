"""Every key of training and grid files as a page of Markdown, made from their schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from slr_bench.grid.config import TRAINING_STEP, GridConfig, Part
from slr_bench.grid.schema import Schema, alike, keys_of, training_schema
from slr_bench.grid.workload import WorkloadSpec

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

<!-- Written by `{command} --markdown`; change the keys' descriptions, not this page. -->

A **training file** holds one setting: every knob of a step or a training. A **grid file** names a workload, arms and
axes; its cells are settings. Both are YAML. Given to a command by itself, a training file is one cell of `{step}`.
A key that is left out has its default; an unknown one is refused, and the nearest known one is offered. Rules that
several keys make together are told in one line when the file is read, before any process starts.

On the command line a key is written with its sections: `--set {example}`. So it is in a grid file, under
`set`, `arms`, `axes` and `exclude`; in `set` and `arms` nested sections will do as well.
"""
_EDITORS: Final = """## Completion in an editor

Editors with a YAML language server (the YAML extension of VS Code, coc-yaml or nvim-lspconfig's `yamlls` in Vim, Emacs
with lsp-mode) complete keys, show their meaning and underline mistakes, if a file says which schema is its own. Write
the schemas once:

```bash
{command} > training.schema.json
{command} --grid > grid.schema.json
```

and begin each YAML file with a line that names one, relative to that file:

```yaml
# yaml-language-server: $schema=training.schema.json
```

```yaml
# yaml-language-server: $schema=grid.schema.json
```

PyCharm takes them under *Languages & Frameworks → Schemas and DTDs → JSON Schema Mappings*. The schemas know each key's
type, limits and values, not the rules that several keys make together. Write them again when slr-bench or the workload
has changed.
"""


def reference(spec: WorkloadSpec) -> str:
    """The page for a workload."""
    command = "slr-bench schema" if spec.name == Part().workload else f"slr-bench schema {spec.name}"
    *names, last = (f"`{name}`" for name in alike(spec))
    whose = f"{', '.join(names)} and {last}" if names else last
    grid = GridConfig.model_json_schema()
    return "\n".join(
        (
            _HEAD.format(command=command, step=TRAINING_STEP, example=f"{spec.micro_batch or 'section.key'}=4"),
            f"## Training files\n\nThe settings of {whose}.\n",
            *_sections(training_schema(spec), "###", ""),
            "## Grid files\n",
            *_sections(grid, "###", ""),
            _EDITORS.format(command=command),
        )
    )


def _sections(schema: Schema, mark: str, prefix: str) -> Iterator[str]:
    """A table of the keys that are no sections, then each section; last the models that lists and mappings hold."""
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
            yield f"{mark} `{section}`\n"
        if rows:
            yield _table(rows)
    for key in keys_of(schema, definitions):
        held = _held(key.schema, definitions)
        if held is not None and not held["properties"].keys() <= schema["properties"].keys():
            where = f"{key.name}.NAME" if "additionalProperties" in key.schema else f"{key.name}[]"
            yield f"{mark} `{where}`\n\n{_text(held.get('description', ''))}\n"
            yield _table([_row(name, value, held) for name, value in held["properties"].items()])


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
    held = _held(schema, owner.get("$defs", {}))
    if held is None or not held["properties"].keys() <= owner.get("properties", {}).keys():
        return text
    return f"{text} Keys: {', '.join(f'``{name}``' for name in held['properties'])}, as above."


def _held(schema: Schema, definitions: Mapping[str, Schema]) -> Schema | None:
    """The model of which a key holds a list or a mapping."""
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
    found = [text.format(_value(one[name])) for one in choices for name, text in _LIMITS.items() if name in one]
    return ", ".join(dict.fromkeys(found))


def _value(value: Any) -> str:
    """As YAML has it."""
    if isinstance(value, float) and value == int(value):
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value)


def _text(description: str) -> str:
    """A docstring in Markdown, on one line."""
    words = " ".join(description.split()).replace("``", "`")
    parts = words.split("`")
    return "`".join(part if place % 2 else part.replace("<", "\\<") for place, part in enumerate(parts))

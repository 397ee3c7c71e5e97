"""JSON Schema of training files and grid files, with which editors complete the YAML and underline mistakes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from slr_bench.errors import ConfigError
from slr_bench.grid.config import GridConfig
from slr_bench.grid.workload import WorkloadSpec, find_workload, registrations

Schema = dict[str, Any]

_DIALECT: Final = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
_DEFS: Final = "#/$defs/"
_OF_SETTINGS: Final = "settings."
"""Begins the names of the settings' definitions within the schema of a grid."""


class Key(NamedTuple):
    """A key of a schema, with the sections around it: ``optimizer.lr``."""

    name: str
    schema: Schema
    is_section: bool


def training_schema(spec: WorkloadSpec) -> Schema:
    """Of a workload's training files."""
    return _DIALECT | spec.settings.model_json_schema()


def grid_schema(spec: WorkloadSpec) -> Schema:
    """Of grid files that measure a workload: what is laid over the base, and the axes, know the workload's keys."""
    schema = _DIALECT | GridConfig.model_json_schema()
    settings = spec.settings.model_json_schema(ref_template=f"{_DEFS}{_OF_SETTINGS}{{model}}")
    definitions = settings.pop("$defs", {})
    schema["$defs"] |= {f"{_OF_SETTINGS}{name}": definition for name, definition in definitions.items()}
    found = list(keys_of(settings, schema["$defs"]))
    names = alike(spec)
    for part in (schema, schema["$defs"]["Part"]):
        _with_keys(part["properties"], found)
        part["properties"]["workload"] |= {"enum": names}
        if part["properties"]["workload"]["default"] not in names:
            del part["properties"]["workload"]["default"]
            part["required"] = ["workload"]
    properties = schema["properties"]
    base = {"type": "string", "description": "Training file that this arm starts from, in place of the grid's."}
    properties["arms"]["additionalProperties"] = _closed({"base": base} | {key.name: key.schema for key in found})
    file_name = {"type": "string", "description": "File of them, relative to the grid file."}
    mapping = {"type": "object", "additionalProperties": properties["techniques"].pop("additionalProperties")}
    del properties["techniques"]["type"]
    properties["techniques"]["anyOf"] = [mapping, file_name]
    return schema


def keys_of(schema: Schema, definitions: Mapping[str, Schema], prefix: str = "") -> Iterator[Key]:
    """Every key below a schema, sections before what is in them."""
    for name, value in schema.get("properties", {}).items():
        section = definitions.get(value.get("$ref", "").removeprefix(_DEFS))
        is_section = section is not None and "properties" in section
        yield Key(prefix + name, value, is_section)
        if section is not None and is_section:
            yield from keys_of(section, definitions, f"{prefix}{name}.")


def alike(spec: WorkloadSpec) -> list[str]:
    """Names of the registered workloads that have the same settings, this one first."""
    names = {spec.name: None}
    for registered in sorted({one.name for one in registrations()}):
        with contextlib.suppress(ConfigError):  # one that does not load is no concern of the others
            if find_workload(registered).settings is spec.settings:
                names[registered] = None
    return list(names)


def _with_keys(properties: dict[str, Schema], found: list[Key]) -> None:
    """``set`` takes keys and sections, ``axes`` lists of values, ``exclude`` values."""
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

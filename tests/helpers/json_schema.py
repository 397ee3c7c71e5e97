"""JSON Schema as editors apply it, as far as ours goes: written down anew, apart from what makes the schemas."""

import re

TYPES = {
    "object": dict, "array": (list, tuple), "string": str, "integer": int, "number": (int, float), "boolean": bool,
    "null": type(None),
}  # fmt: skip
LIMITS = {
    "minimum": lambda value, limit: value >= limit,
    "maximum": lambda value, limit: value <= limit,
    "exclusiveMinimum": lambda value, limit: value > limit,
    "exclusiveMaximum": lambda value, limit: value < limit,
    "multipleOf": lambda value, limit: value % limit == 0,
    "minItems": lambda value, limit: len(value) >= limit,
    "minProperties": lambda value, limit: len(value) >= limit,
    "pattern": lambda value, limit: re.search(limit, value) is not None,
}
ANNOTATIONS = {"description", "title", "default", "format", "$schema", "$defs"}


def mistakes(value, schema, root=None, where="file"):
    """Return one line for each mistake that an editor would underline."""
    root = schema if root is None else root
    unknown = schema.keys() - ANNOTATIONS - LIMITS.keys() - {
        "$ref", "anyOf", "enum", "const", "type", "properties", "additionalProperties", "required", "items"
    }  # fmt: skip
    assert not unknown, f"teach this checker {unknown}"
    found = []
    if "$ref" in schema:
        found += mistakes(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, where)
    if "anyOf" in schema and all(mistakes(value, choice, root, where) for choice in schema["anyOf"]):
        found.append(f"{where}: {value!r} is none of the choices")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where}: {value!r} is not in {schema['enum']}")
    if "const" in schema and value != schema["const"]:
        found.append(f"{where}: {value!r} is not {schema['const']!r}")
    kind = schema.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return [*found, f"{where}: {value!r} is no {kind}"]
    found += [
        f"{where}: {value!r} breaks {name} {schema[name]}"
        for name, holds in LIMITS.items()
        if name in schema and not holds(value, schema[name])
    ]
    if isinstance(value, dict):
        found += _mistakes_in_mapping(value, schema, root, where)
    if isinstance(value, (list, tuple)) and "items" in schema:
        for place, item in enumerate(value):
            found += mistakes(item, schema["items"], root, f"{where}[{place}]")
    return found


def _mistakes_in_mapping(value, schema, root, where):
    found = [f"{where}: {key} is missing" for key in schema.get("required", ()) if key not in value]
    for key, item in value.items():
        inner = schema.get("properties", {}).get(key, schema.get("additionalProperties", True))
        if inner is False:
            found.append(f"{where}: unknown key {key}")
        elif inner is not True:
            found += mistakes(item, inner, root, f"{where}.{key}")
    return found

"""Convert Google's `Schema` (a subset of OpenAPI 3.0) to JSON schema: https://ai.google.dev/api/caching#Schema."""

from __future__ import annotations

from typing import Any

from llm_gateway.domain.conversation import Schema
from llm_gateway.protocols.gemini.field_names import camel_names

NAMED = ("properties", "defs", "$defs")
"""Fields that contain an object of schemas."""
LISTED = ("anyOf", "prefixItems")
"""Fields that contain a list of schemas."""
SINGLE = ("items", "additionalProperties")
"""Fields that contain one schema."""
COUNTS = frozenset({"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"})
"""Fields of type int64, which are strings in Google's JSON."""
LEFT_OUT = frozenset({"nullable", "propertyOrdering"})
RENAMED = {"defs": "$defs", "ref": "$ref"}


def json_schema(given: Any) -> Any:
    """Return the JSON schema for a `Schema`. A value that is no object (`additionalProperties: false`) is unchanged.

    `STRING` becomes `string`, `nullable` an additional type or alternative, `example` a list of `examples`.
    """
    if not isinstance(given, dict):
        return given
    fields = camel_names(given)
    schema: Schema = {}
    for name, value in fields.items():
        if name in NAMED and isinstance(value, dict):
            schema[RENAMED.get(name, name)] = by_name = {}
            for key, inner in value.items():
                by_name[key] = json_schema(inner)
        elif name in LISTED and isinstance(value, list):
            schema[name] = several = []
            for inner in value:
                several.append(json_schema(inner))  # noqa: PERF401 - a comprehension needs one more stack frame per level
        elif name in SINGLE:
            schema[name] = json_schema(value)
        else:
            schema |= _field(name, value)
    return _nullable(schema) if fields.get("nullable") is True else schema


def _field(name: str, value: Any) -> Schema:
    """Convert a field without a nested schema; return an empty dict if JSON schema has no such field."""
    if name in LEFT_OUT or (name == "format" and value == "enum"):
        return {}
    if name == "type":
        return _type(value)
    if name == "example":
        return {"examples": [value]}
    if name in COUNTS and isinstance(value, str) and value.isdecimal():
        return {name: int(value)}
    return {RENAMED.get(name, name): value}


def _type(value: Any) -> Schema:
    if isinstance(value, list):
        return {"type": [item.lower() if isinstance(item, str) else item for item in value]}
    if value == "TYPE_UNSPECIFIED" or not isinstance(value, str):
        return {}
    return {"type": value.lower()}


def _nullable(schema: Schema) -> Schema:
    kind = schema.get("type")
    if isinstance(kind, str) and kind != "null":
        schema["type"] = [kind, "null"]
        if isinstance(schema.get("enum"), list):
            schema["enum"] = [*schema["enum"], None]
    elif isinstance(schema.get("anyOf"), list):
        schema["anyOf"] = [*schema["anyOf"], {"type": "null"}]
    return schema

"""Conditions under which vendors enforce the schema of a tool (`strict`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llm_gateway.protocols.contract import JsonObject

UNSUPPORTED_IN_STRICT = frozenset(
    {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "maxItems"}
)
"""Keywords of JSON schema that Claude rejects in strict schemas."""


def openai_can_enforce(schema: Any) -> bool:
    """Return whether every object in the schema forbids other properties, and requires all that it has."""
    if isinstance(schema, list):
        return all(map(openai_can_enforce, schema))
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        properties = schema.get("properties")
        named = set(properties) if isinstance(properties, dict) else set()
        required = schema.get("required") or []
        if schema.get("additionalProperties") is not False or not isinstance(required, list):
            return False
        if not named.issubset(each for each in required if isinstance(each, str)):
            return False
    return all(map(openai_can_enforce, _inner_schemas(schema)))


def claude_can_enforce(schema: Any) -> bool:
    """Return whether every object in the schema forbids other properties, and no keyword limits sizes."""
    if isinstance(schema, list):
        return all(map(claude_can_enforce, schema))
    if not isinstance(schema, dict):
        return True
    if not UNSUPPORTED_IN_STRICT.isdisjoint(schema):
        return False
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        return False
    return all(map(claude_can_enforce, _inner_schemas(schema)))


def _inner_schemas(schema: JsonObject) -> Iterator[Any]:
    for keyword, value in schema.items():
        if keyword in ("properties", "$defs", "definitions") and isinstance(value, dict):
            yield from value.values()
        elif keyword in ("items", "anyOf", "allOf", "oneOf"):
            yield value

"""Conversion of Google's schemas to JSON schemas."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.protocols.gemini.schema import json_schema


@pytest.mark.parametrize(
    ("google", "expected"),
    [
        ({"type": "STRING"}, {"type": "string"}),
        ({"type": "string"}, {"type": "string"}),
        ({"type": "TYPE_UNSPECIFIED"}, {}),
        ({"type": ["STRING", "NULL"]}, {"type": ["string", "null"]}),
        ({"type": "INTEGER", "nullable": True}, {"type": ["integer", "null"]}),
        ({"type": "INTEGER", "nullable": False}, {"type": "integer"}),
        ({"type": "NULL", "nullable": True}, {"type": "null"}),
        (
            {"type": "STRING", "format": "enum", "enum": ["a", "b"], "nullable": True},
            {"type": ["string", "null"], "enum": ["a", "b", None]},
        ),
        ({"type": "STRING", "format": "date-time"}, {"type": "string", "format": "date-time"}),
        (
            {"anyOf": [{"type": "STRING"}, {"type": "NUMBER"}], "nullable": True},
            {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "null"}]},
        ),
        (
            {"any_of": [{"type": "STRING"}], "max_length": "5", "property_ordering": ["a"]},
            {"anyOf": [{"type": "string"}], "maxLength": 5},
        ),
        (
            {"type": "ARRAY", "items": {"type": "BOOLEAN"}, "minItems": "1", "maxItems": 3},
            {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        ),
        (
            {"type": "ARRAY", "prefixItems": [{"type": "STRING"}], "items": {}},
            {"type": "array", "prefixItems": [{"type": "string"}], "items": {}},
        ),
        ({"type": "STRING", "example": "x"}, {"type": "string", "examples": ["x"]}),
        (
            {"type": "OBJECT", "properties": {"type": {"type": "STRING"}, "any_of": {"type": "NUMBER"}}},
            {"type": "object", "properties": {"type": {"type": "string"}, "any_of": {"type": "number"}}},
        ),
        ({"type": "OBJECT", "additionalProperties": False}, {"type": "object", "additionalProperties": False}),
        (
            {"type": "OBJECT", "additional_properties": {"type": "STRING"}},
            {"type": "object", "additionalProperties": {"type": "string"}},
        ),
        (
            {"ref": "#/$defs/a", "defs": {"a": {"type": "STRING"}}},
            {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}},
        ),
        (
            {"type": "NUMBER", "minimum": 1, "maximum": 2, "title": "t", "description": "d", "default": 1},
            {"type": "number", "minimum": 1, "maximum": 2, "title": "t", "description": "d", "default": 1},
        ),
        ({"type": "STRING", "pattern": "^a$"}, {"type": "string", "pattern": "^a$"}),
    ],
)  # fmt: skip
def test_a_schema_of_google_becomes_a_json_schema(google: dict[str, Any], expected: dict[str, Any]) -> None:
    assert json_schema(google) == expected


@pytest.mark.parametrize("value", [True, False, None, "x", 5])
def test_a_value_that_is_no_object_stays_unchanged(value: Any) -> None:
    assert json_schema(value) is value


def test_schemas_as_deep_as_a_body_can_be_are_converted() -> None:
    deepest: dict[str, Any] = {"type": "STRING"}
    for _ in range(400):
        deepest = {"items": deepest}

    found = json_schema(deepest)
    for _ in range(400):
        found = found["items"]
    assert found == {"type": "string"}


SIMPLE = st.fixed_dictionaries(
    {"type": st.sampled_from(["string", "number", "integer", "boolean"])},
    optional={"description": st.text(max_size=5), "enum": st.lists(st.text(max_size=3), max_size=2)},
)
JSON_SCHEMAS = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}),
        st.fixed_dictionaries(
            {
                "type": st.just("object"),
                "properties": st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), inner, max_size=3),
            }
        ),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=2)}),
    ),
    max_leaves=8,
)


def shouted(schema: Any) -> Any:
    """Return the schema with its types in Google's spelling (upper case)."""
    if isinstance(schema, list):
        return [shouted(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for name, value in schema.items():
        if name == "properties":
            found[name] = {key: shouted(inner) for key, inner in value.items()}
        elif name == "type":
            found[name] = value.upper()
        else:
            found[name] = value if name in ("enum", "description") else shouted(value)
    return found


@given(schema=JSON_SCHEMAS)
def test_a_json_schema_in_googles_spelling_is_restored(schema: dict[str, Any]) -> None:
    assert json_schema(shouted(schema)) == schema
    assert json_schema(schema) == schema

"""Sentences for pydantic's errors of fields, in the words that POST /generate has for the same mistakes.

`error_format/validation.py` has those of msgspec. A sentence may name the type of a value, never the value: it can be a
key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_gateway.error_format.validation import NOUNS

TAGS = frozenset({"all_models", "by_model"})
"""Parts of a place that name a member of a union, not a field."""
PATTERNS = {
    r"^[^\x00]*$": "must not contain a NUL character",
    r"^[^\x00-\x1f\x7f]*$": "must not contain control characters, such as line breaks",
    r"^[^\x00-\x1f\x7f:,]*$": "must not contain colons, commas or control characters",
    r"^[a-z0-9][a-z0-9_-]{0,62}$": (
        "must be 1 to 63 lower-case letters (a to z), digits, - and _, and begin with a letter or a digit"
    ),
    "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$": (
        "must be an id as this API returns it, such as 01a20753-7747-71fb-90d8-f658519a1426"
    ),
    "^[0-9a-f]{32}$": "must be a version as GET /api/v1/configuration returns it",
    r"^[!-~]{1,128}$": "must be 1 to 128 visible ASCII characters",
    r"^[A-Za-z0-9_.-]{1,64}(=[^\x00]{0,64})?$": "must be the name of a tag, or name=value",
    r"^[1-9][0-9]{0,10}$": "must be a whole number of cents from 1 to 99999999999",
}
"""What a text must be that does not match a pattern of a schema."""
_WANTED = {
    "string_type": "text",
    "string_sub_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
"""What a value of the wrong type must be, by the type of pydantic's error (pydantic-core, `ErrorType`)."""
_KINDS = {str: "str", bool: "bool", int: "int", type(None): "null", dict: "object", list: "array"}
_DEMANDS = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "literal_error": "must be {expected}",
    "finite_number": "must be a finite number",
}


def place_of(found: Mapping[str, Any]) -> tuple[str | int, ...]:
    """Return where pydantic found an error: `body` or `query`, then names of fields and places in lists."""
    return tuple(part for part in found["loc"] if part not in TAGS)


def sentence(where: str, found: Mapping[str, Any]) -> str:
    """Return the sentence for a field `where` with one of pydantic's errors, as `errors()` returns it."""
    kind, limits = found["type"], found.get("ctx") or {}
    if kind in _WANTED:
        return f"{where} must be {_WANTED[kind]}, not {_noun(found.get('input'), kind)}."
    if kind == "string_pattern_mismatch" and limits["pattern"] in PATTERNS:
        return f"{where} {PATTERNS[limits['pattern']]}."
    if kind in ("string_too_short", "too_short") and limits["min_length"] == 1:
        return f"{where} must not be empty."
    if kind == "too_long":
        entries = "characters" if isinstance(found.get("input"), str) else "entries"
        return f"{where} must have at most {limits['max_length']} {entries}."
    if kind in _DEMANDS:
        return f"{where} {_DEMANDS[kind].format_map(_plain(limits))}."
    message = found["msg"].removeprefix("Value error, ").rstrip(".")
    told = f"{where} {message}" if message.startswith("must ") else f"{where}: {message}"
    return told if told.endswith("?") else f"{told}."


def _noun(value: Any, kind: str) -> str:
    if isinstance(value, float):
        return "a number with a fraction" if kind.startswith("int") else "a number"
    return NOUNS[_KINDS.get(type(value), "object")]


def _plain(limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return limits with 3600.0 as 3600."""
    return {
        name: int(limit) if isinstance(limit, float) and limit.is_integer() else limit for name, limit in limits.items()
    }

"""Turn msgspec's validation errors into messages for API clients."""

from __future__ import annotations

import re

import msgspec

from llm_gateway.errors import Invalid

_WHERE = re.compile(r"(.*?) - at `(key in )?\$\.?(.*)`$", re.DOTALL)
_FIELD = re.compile(r"(missing required|contains unknown) field `(.*)`", re.DOTALL)
_TYPE = re.compile(r"Expected `([a-z |]+)`, got `([a-z]+)`")
_RANGE = re.compile(r"Expected `(?:int|float)` (>=|<=|>|<) (\S+)")
_LENGTH = re.compile(r"Expected `str` of length (>=|<=) (\d+)")

NOUNS = {
    "str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "null": "null",
    "object": "an object", "array": "a list",
}  # fmt: skip
BOUNDS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}


def invalid_request(error: msgspec.ValidationError) -> Invalid:
    """Return the error for a field, parsed from msgspec's sentence ("Expected `int` <= 8000 - at `$.n`")."""
    found = _WHERE.fullmatch(str(error))
    text, path = (found[1], found[3]) if found else (str(error), "")
    parts = [part for part in path.split(".") if part]
    if field := _FIELD.search(text):
        parts.append(field[2])
        is_missing = field[1] == "missing required"
        sentence = f"{'.'.join(parts)} is {'required' if is_missing else 'not a field of this request'}."
        return Invalid(sentence, loc=("body", *parts), kind="missing" if is_missing else "extra_forbidden")
    return Invalid(f"{'.'.join(parts) or 'The body'} {_demand(text)}.", loc=("body", *parts))


def _demand(text: str) -> str:
    """Return the end of the sentence that starts with the field: the requirement it does not meet."""
    if found := _TYPE.fullmatch(text):
        wanted = " or ".join(NOUNS.get(name, name) for name in found[1].split(" | "))
        return f"must be {wanted}, not {NOUNS.get(found[2], found[2])}"
    if found := _RANGE.fullmatch(text):
        return f"must be {BOUNDS[found[1]]} {found[2]}"
    if found := _LENGTH.fullmatch(text):
        if found[0].endswith(">= 1"):
            return "must not be empty"
        return f"must have {BOUNDS[found[1]]} {found[2]} characters"
    return f"does not fit: {text[:1].lower()}{text[1:]}"

"""Turn msgspec's validation errors into messages for API clients."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain, islice
from typing import Any

import msgspec

from llm_gateway.errors import Invalid
from llm_gateway.suggestions import if_meant

MOST_ERRORS = 20
"""Maximum number of errors of a body in one response."""

_WHERE = re.compile(r"(.*?) - at `(key in )?\$\.?(.*)`$", re.DOTALL)
_FIELD = re.compile(r"(missing required|contains unknown) field `(.*)`", re.DOTALL)
_TYPE = re.compile(r"Expected `([a-z |]+)`, got `([a-z]+)`")
_RANGE = re.compile(r"Expected `(?:int|float)` (>=|<=|>|<) (\S+)")
_LENGTH = re.compile(r"Expected `(str|array)` of length (>=|<=) (\d+)")

NOUNS = {
    "str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "null": "null",
    "object": "an object", "array": "a list",
}  # fmt: skip
BOUNDS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}


def invalid_request(error: msgspec.ValidationError, within: str = "") -> Invalid:
    """Return the error for a field, parsed from msgspec's sentence ("Expected `int` <= 8000 - at `$.n`").

    `within` is the field whose value was decoded, empty for the whole body.
    """
    found = _WHERE.fullmatch(str(error))
    text, path = (found[1], found[3]) if found else (str(error), "")
    if within:
        path = f"{within}{path}" if path.startswith("[") or not path else f"{within}.{path}"
    parts = [part for part in path.split(".") if part]
    if field := _FIELD.search(text):
        parts.append(field[2])
        is_missing = field[1] == "missing required"
        sentence = f"{'.'.join(parts)} is {'required' if is_missing else 'not a field of this request'}."
        return Invalid(sentence, loc=("body", *parts), kind="missing" if is_missing else "extra_forbidden")
    return Invalid(f"{'.'.join(parts) or 'The body'} {_demand(text)}.", loc=("body", *parts))


def unknown_field(place: tuple[str, ...], known: Iterable[str]) -> Invalid:
    """Return the error for a field that a request does not have; `known` are the names to suggest from."""
    sentence = f"{'.'.join(place)} is not a field of this request.{if_meant(place[-1], known)}"
    return Invalid(sentence, loc=("body", *place), kind="extra_forbidden")


def all_invalid(
    document: dict[str, Any],
    kind: type[msgspec.Struct],
    error: msgspec.ValidationError,
    more: Iterable[Invalid] = (),
) -> Invalid:
    """Return an error that lists all errors of a document. `error` is the first one, from decoding it into `kind`.

    `more` are errors that `kind` does not describe.
    """
    found = list(islice(chain(_mistakes(document, kind), more), MOST_ERRORS))
    return Invalid.all_of(found) if found else invalid_request(error)


@cache
def _fields(kind: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """Return the fields of a struct by their names in JSON; looking them up leaves a cycle of references each time."""
    return {field.encode_name: field for field in msgspec.structs.fields(kind)}


def _mistakes(document: dict[str, Any], kind: type[msgspec.Struct]) -> Iterator[Invalid]:
    fields = _fields(kind)
    missing = [name for name, field in fields.items() if field.required and name not in document]
    for name in document:
        if name not in fields:
            yield unknown_field((name,), [*missing, *fields])
    for name, field in fields.items():
        if name not in document:
            continue
        try:
            msgspec.convert(document[name], field.type)
        except msgspec.ValidationError as error:
            yield invalid_request(error, name)
    for name in missing:
        yield Invalid(f"{name} is required.", loc=("body", name), kind="missing")


def _demand(text: str) -> str:
    """Return the end of the sentence that starts with the field: the requirement it does not meet."""
    if found := _TYPE.fullmatch(text):
        names = found[1].split(" | ")
        wanted = " or ".join(NOUNS.get(name, name) for name in names)
        given = "a number with a fraction" if found[2] == "float" and "int" in names else NOUNS.get(found[2], found[2])
        return f"must be {wanted}, not {given}"
    if found := _RANGE.fullmatch(text):
        return f"must be {BOUNDS[found[1]]} {found[2]}"
    if found := _LENGTH.fullmatch(text):
        if found[0].endswith(">= 1"):
            return "must not be empty"
        return f"must have {BOUNDS[found[2]]} {found[3]} {'characters' if found[1] == 'str' else 'entries'}"
    if text.endswith("out of range"):
        return "must be a smaller number"
    return f"does not fit: {text[:1].lower()}{text[1:]}"

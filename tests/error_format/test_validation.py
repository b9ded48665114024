"""Sentences for each kind of msgspec validation error."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest

from llm_gateway.error_format.validation import invalid_request


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    flag: bool = False


class Body(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=3)]
    count: Annotated[int, msgspec.Meta(ge=1, le=8)] = 1
    share: Annotated[float, msgspec.Meta(gt=0.0, lt=2.5)] = 1.0
    note: str | None = None
    inner: Inner = Inner()
    kind: Annotated[str, msgspec.Meta(pattern="^a")] = "a"


@pytest.mark.parametrize(
    ("text", "sentence", "loc"),
    [
        ("{}", "name is required.", ["body", "name"]),
        ('{"name": "a", "x": 1}', "x is not a field of this request.", ["body", "x"]),
        ('{"name": 1}', "name must be text, not a whole number.", ["body", "name"]),
        ('{"name": null}', "name must be text, not null.", ["body", "name"]),
        ('{"name": ""}', "name must not be empty.", ["body", "name"]),
        ('{"name": "abcd"}', "name must have at most 3 characters.", ["body", "name"]),
        ('{"name": "a", "count": 0}', "count must be at least 1.", ["body", "count"]),
        ('{"name": "a", "count": 9}', "count must be at most 8.", ["body", "count"]),
        ('{"name": "a", "count": 1.5}', "count must be a whole number, not a number with a fraction.",
         ["body", "count"]),
        ('{"name": "a", "count": ' + "1" * 5000 + "}", "count must be a smaller number.", ["body", "count"]),
        ('{"name": "a", "count": true}', "count must be a whole number, not true or false.", ["body", "count"]),
        ('{"name": "a", "share": 0}', "share must be more than 0.0.", ["body", "share"]),
        ('{"name": "a", "share": 2.5}', "share must be less than 2.5.", ["body", "share"]),
        ('{"name": "a", "note": []}', "note must be text or null, not a list.", ["body", "note"]),
        ('{"name": "a", "inner": {"flag": 1}}', "inner.flag must be true or false, not a whole number.",
         ["body", "inner", "flag"]),
        ('{"name": "a", "inner": {"x": 1}}', "inner.x is not a field of this request.", ["body", "inner", "x"]),
        ("[]", "The body must be an object, not a list.", ["body"]),
        ('{"name": "a", "kind": "b"}', "kind does not fit: expected `str` matching regex '^a'.", ["body", "kind"]),
    ],
)  # fmt: skip
def test_an_invalid_body_is_explained_in_a_sentence(text: str, sentence: str, loc: list[str]) -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.json.decode(text, type=Body)
    error = invalid_request(raised.value)
    assert error.detail == sentence
    assert error.errors[0]["loc"] == loc

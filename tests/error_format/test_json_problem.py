"""Messages for a body that is not JSON: line and column, likely cause, what to do."""

from __future__ import annotations

import msgspec
import pytest

from llm_gateway.error_format.json_problem import not_an_object, not_json
from tests.rows import each_row


def sentence(body: bytes) -> str:
    with pytest.raises((msgspec.MsgspecError, UnicodeError, RecursionError)) as caught:
        msgspec.json.decode(body)
    found = not_json(body, caught.value)
    assert found.errors == [{"loc": ["body"], "msg": found.detail, "type": "json_invalid"}]
    assert found.detail.endswith(".")
    return found.detail


@each_row(
    ("body", "place", "problem"),
    [
        (b'{\n "a": 1,\n // no\n "b": 2}', (3, 2), "looks like a comment"),
        (b'{"a": 1 /* no */}', (1, 9), "looks like a comment"),
        (b"# yaml\na: 1", (1, 1), "looks like a comment"),
        (b"{'a': 1}", (1, 2), "in double quotes"),
        (b"{\"a\": 'b'}", (1, 7), "in double quotes"),
        ("{“a”: 1}".encode(), (1, 2), "typographic quotes"),
        (b"{a: 1}", (1, 2), "field names are written in double quotes"),
        (b'{"a": True}', (1, 7), "JSON writes True as true"),
        (b'{"a": None}', (1, 7), "JSON writes None as null"),
        (b'{"a": NaN}', (1, 7), "JSON has no NaN"),
        (b'{"a": -Infinity}', (1, 8), "JSON has no Infinity"),
        (b'{"a": 1,}', (1, 9), "a comma before the closing bracket"),
        (b"[1, 2,]", (1, 7), "a comma before the closing bracket"),
        (b'{"a": "x\ny"}', (1, 9), "a line break or tab"),
        (b'{"a": 1} {"b": 2}', (1, 10), "the JSON value has ended here"),
        (b'{"a": 1 "b": 2}', (1, 9), "expected ',' or '}'"),
        ('{"ä": "ö"\n"ü" x}'.encode(), (2, 1), "expected ',' or '}'"),
        ('{"ä": "öü" x}'.encode(), (1, 12), "expected ',' or '}'"),
        (b'{"a": tru}', (1, 7), "tru is not a JSON value"),
        (b"[1, nul]", (1, 5), "nul is not a JSON value"),
        (b'{"a": "\\x"}', (1, 9), "invalid escape character"),
        (b'{"a": @}', (1, 7), "the character '@' is not allowed here"),
        (b'{"a": "\xff"}', (1, 8), "a byte that is not UTF-8"),
        (b'{"a": "\\ude00"}', (1, 14), "half of a surrogate pair"),
        (b'{"a": "\\ud83d\\u0041"}', (1, 20), "half of a surrogate pair"),
        (b'{"a": "\\ud83d and a text"}', (1, 14), "half of a surrogate pair"),
        (b'{"a": "\\u12"}', (1, 13), "four hexadecimal digits"),
        (b'{"a": 01}', (1, 8), "no leading zeros"),
    ],
)
def test_the_message_names_the_place_and_the_problem(body: bytes, place: tuple[int, int], problem: str) -> None:
    found = sentence(body)
    assert found.startswith(f"The body is not valid JSON: line {place[0]}, column {place[1]}: ")
    assert problem in found


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        ('{"a": 1}'.encode("utf-16-le"), "UTF-16"),
        ('{"a": 1}'.encode("utf-32"), "UTF-32"),
        (b"a=1&b=2", "looks like a form"),
        (b'--x\r\nContent-Disposition: form-data; name="a"', "multipart form"),
        (b"<a>1</a>", "XML or HTML"),
        (b"\x1f\x8b\x08\x00", "compressed"),
        (b'{"a": "x', "a string is not closed"),
        (b'{"a": "x\\"', "a string is not closed"),
        (b'{"a": "C:\\\\\\"', "a string is not closed"),
        (b'{"a": [1', "before all brackets are closed"),
        (b'{"a": "C:\\\\"', "before all brackets are closed"),
        (b'{"a": "C:\\\\ud83d"', "before all brackets are closed"),
        (b'{"a": 1e999}', "The body holds a number that is too large."),
        (b'{"a": [-1e400], "b": "\\\\ud83d"}', "The body holds a number that is too large."),
        (b'{"a": ' + b"1" * 1_000_000 + b"}", "The body holds a number that is too large."),
        (b'{"a": "\\ud83d"}', "half of a surrogate pair"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_body_in_another_format_is_recognised(body: bytes, problem: str) -> None:
    assert problem in sentence(body)


@pytest.mark.parametrize(
    ("value", "noun"),
    [("{}", "not text"), ([], "not a list"), (None, "not null"), (1.5, "not a number, true or false")],
)
def test_json_that_is_not_an_object_is_named(value: object, noun: str) -> None:
    assert noun in not_an_object(value).detail

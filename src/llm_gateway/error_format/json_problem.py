"""Explain why a request body is not JSON: line and column, the likely cause, and what to do."""

from __future__ import annotations

import re

from llm_gateway.errors import Invalid

KIND = "json_invalid"
_AT_BYTE = re.compile(r"(.*?)\s*\(byte (\d+)\)$", re.DOTALL)
_FORM = re.compile(rb"[\w.%+\[\]-]{1,64}=")
_HALF = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
HALF_A_PAIR = "a string holds half of a surrogate pair, such as \\ud83d. Cut strings between characters, not within one"
TOO_LARGE = "a number that is too large. Send numbers from -1.7e308 to 1.7e308, and longer ones as strings"
_LOOKS = (
    (("//", "/*", "#"), "this looks like a comment, which JSON does not have. Remove it"),
    (("'", "`"), 'strings and field names are written in double quotes ("), not single ones'),
    (("\u2018", "\u2019", "\u201c", "\u201d"), 'these are typographic quotes. Write straight ones (")'),
    (("\n", "\r", "\t"), "a string holds a line break or tab. Write \\n or \\t"),
)
_DECODER_SAYS = (
    ("trailing comma", "there is a comma before the closing bracket. Remove it"),
    ("trailing characters", "the JSON value has ended here. Remove what follows"),
    ("invalid utf-16 surrogate pair", HALF_A_PAIR),
    ("unexpected end of escaped utf-16 surrogate pair", HALF_A_PAIR),
    ("invalid character in unicode escape", "\\u is followed by four hexadecimal digits, such as \\u00e9"),
    ("invalid number", "JSON numbers have no leading zeros, and digits on both sides of a point: 0.5, 1e3"),
    ("object keys must be strings", 'field names are written in double quotes (")'),
)
_ONE_TOO_FAR = ("trailing characters", "invalid escape")
"""Errors that msgspec reports one byte after the wrong one."""
_LITERAL = re.compile(rb"(?<=[\s:\[,])[tfn][a-z]{0,4}\Z")
_WORD = re.compile(r"-?[A-Za-z]{2,9}\b")
_WORDS = {"True": "true", "False": "false", "None": "null", "nil": "null", "undefined": "null"}
_NUMBERS = ("NaN", "Infinity", "-Infinity", "-inf", "inf")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
AROUND = 64
"""Bytes that are examined from the place where decoding failed."""


def not_json(body: bytes, error: Exception) -> Invalid:
    """Return the error for a body at which a decoder failed with `error`."""
    return Invalid(_sentence(body, error), kind=KIND)


def not_an_object(value: object) -> Invalid:
    """Return the error for a body that is JSON, but no object."""
    if isinstance(value, str):
        return Invalid(
            "The body must be a JSON object, not text. If the text is JSON, it was encoded twice: send it as it is.",
            kind=KIND,
        )
    noun = "a list" if isinstance(value, list) else "null" if value is None else "a number, true or false"
    return Invalid(
        f'The body must be a JSON object, not {noun}: send an object such as {{"name": "value"}}.', kind=KIND
    )


def _sentence(body: bytes, error: Exception) -> str:
    whole = _problem_of_whole(body)
    if whole is not None:
        return f"The body is not JSON: {whole}."
    if isinstance(error, RecursionError):
        return "The body is nested too deeply: put fewer lists and objects inside each other."
    if isinstance(error, UnicodeError):
        return _not_utf8(body)
    found = _AT_BYTE.fullmatch(str(error))
    if found is None:
        if "out of range" in str(error):
            return f"The body holds {TOO_LARGE}."
        if _HALF.search(_without_escaped_backslashes(body)):
            return f"The body is not valid JSON: {HALF_A_PAIR}."
        if "truncated" in str(error):
            return f"The body is not complete JSON: {_open_end(body)}."
        return f"The body is not valid JSON: {str(error)[:1].lower()}{str(error)[1:]}."
    at = min(int(found[2]), len(body))
    text = found[1].removeprefix("JSON is malformed: ")
    if text.startswith(_ONE_TOO_FAR):
        at -= 1
    elif text == "invalid character" and (word := _LITERAL.search(body, max(0, at - 8), at - 1)):
        at = word.start()
        text = f"{word[0].decode()} is not a JSON value. Write true, false or null, or put strings in double quotes"
        return f"The body is not valid JSON: {_place(body, at)}: {text}."
    return f"The body is not valid JSON: {_place(body, at)}: {_problem_at(body, at, text)}."


def _problem_of_whole(body: bytes) -> str | None:
    """Return what a body is if it is empty or in another format or encoding; None if it can be UTF-8 JSON."""
    start = body[:256].lstrip()
    if not start and not body.strip():
        return 'it is empty. Send an object such as {"name": "value"}'
    if body.startswith(b"\x1f\x8b"):
        return "it is compressed. Send it without Content-Encoding"
    if body.startswith(b"\xef\xbb\xbf"):
        return "it begins with a byte order mark. Save it as UTF-8 without one"
    if body.startswith(_UTF_16) or b"\0" in body[:4]:
        return "it is UTF-16 or UTF-32. Encode it in UTF-8"
    if start.startswith(b"--") and b"content-disposition" in body[:1024].lower():
        return "it is a multipart form. Send an object with Content-Type: application/json"
    if start.startswith(b"<"):
        return 'it looks like XML or HTML. Send an object such as {"name": "value"}'
    if _FORM.match(start):
        return 'it looks like a form (name=value). Send an object such as {"name": "value"}; in curl, -d \'{…}\''
    return None


def _not_utf8(body: bytes) -> str:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        place = _place(body, error.start)
        return f"The body is not valid JSON: {place}: there is a byte that is not UTF-8. Encode the body in UTF-8."
    return f"The body is not valid JSON: {HALF_A_PAIR}."


def _without_escaped_backslashes(body: bytes) -> bytes:
    """Return the body without pairs of backslashes, so that each one left escapes the character behind it."""
    return body.replace(b"\\\\", b"")


def _open_end(body: bytes) -> str:
    """Return what is missing at the end of a body that is cut off."""
    if _without_escaped_backslashes(body).replace(b'\\"', b"").count(b'"') % 2:
        return 'a string is not closed. Add the missing "'
    return "it ends before all brackets are closed. Add the missing } or ]"


def _place(body: bytes, at: int) -> str:
    """Return line and column of a byte, both counted from 1, the column in characters."""
    begin = body.rfind(b"\n", 0, at) + 1
    column = len(body[begin:at].decode(errors="replace")) + 1
    line = body.count(b"\n", 0, at) + 1
    return f"line {line}, column {column}"


def _problem_at(body: bytes, at: int, text: str) -> str:
    """Return what is wrong at a place, and what to do. `text` is the decoder's message."""
    rest = body[at : at + AROUND].decode(errors="replace")
    if word := _WORD.match(rest):
        if word[0] in _WORDS:
            return f"JSON writes {word[0]} as {_WORDS[word[0]]}"
        if word[0] in _NUMBERS:
            return f"JSON has no {word[0]}. Send null, or leave the field out"
    for beginnings, problem in _LOOKS:
        if rest.startswith(beginnings):
            return problem
    for beginning, problem in _DECODER_SAYS:
        if text.startswith(beginning):
            return problem
    if text == "invalid character" and rest:
        return f"the character {rest[0]!r} is not allowed here. Remove it, or put strings in double quotes"
    return f"{text}. Correct the body at this position"

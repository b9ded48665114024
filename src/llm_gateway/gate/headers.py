"""Parse request headers: x-request-timeout-ms, cache-control, x-tags, and labels such as x-user-id."""

from __future__ import annotations

import re

from llm_gateway.domain.request import Tags
from llm_gateway.errors import BadRequest

MAX_TAGS, MAX_TAG_CHARACTERS = 10, 64
MAX_LABEL_CHARACTERS = 256
_TAG = rf"[A-Za-z0-9_.-]{{1,{MAX_TAG_CHARACTERS}}}=[ -+.-<>-~-]{{0,{MAX_TAG_CHARACTERS}}}"
TAGS_PATTERN = rf"^{_TAG}(,{_TAG}){{0,{MAX_TAGS - 1}}}$"
"""Pattern of x-tags in the OpenAPI document. `tags` also accepts blanks around keys and values, and UTF-8 values."""
_TAG_KEY = re.compile(rf"[A-Za-z0-9_.-]{{1,{MAX_TAG_CHARACTERS}}}")
_TAG_VALUE = re.compile(rf"[^,=\x00-\x1f\x7f]{{0,{MAX_TAG_CHARACTERS}}}")
_NO_AGE = re.compile(rb"(?:^|[\s,])max-age=(?:0+|\"0+\")(?:$|[\s,])")  # either form: RFC 9111, section 5.2

Headers = dict[bytes, bytes]


def deadline(headers: Headers, started: float, longest_s: float) -> float:
    """Return the time by which the request must be answered, on the clock of `started` (seconds).

    It is `longest_s` after `started`, or sooner if x-request-timeout-ms is shorter.

    Raises:
        BadRequest: the header is not a whole number of milliseconds above 0.
    """
    timeout = headers.get(b"x-request-timeout-ms")
    if timeout is None:
        return started + longest_s
    if not timeout.isdigit() or not timeout.strip(b"0"):
        raise BadRequest("x-request-timeout-ms takes whole milliseconds, 1 or more.")
    return started + min(longest_s, float(timeout) / 1000)  # int() raises on more than 4300 digits


def caching(headers: Headers) -> tuple[bool, bool]:
    """Return (read the cache, store in the cache): `no-cache` and `max-age=0` turn the first off, `no-store` both.

    `max-age=0` asks for an answer that is no older than 0 s (RFC 9111, section 5.2.1.1). Longer ones are ignored.
    """
    cache_control = headers.get(b"cache-control")
    if cache_control is None:
        return True, True
    cache_control = cache_control.lower()
    keep = b"no-store" not in cache_control
    fresh_only = b"no-cache" in cache_control or (b"max-age" in cache_control and _NO_AGE.search(cache_control))
    return keep and not fresh_only, keep


def tags(headers: Headers) -> Tags:
    """Return the key=value pairs of x-tags, none if the header is missing.

    Raises:
        BadRequest: the header is not a list of such pairs, or has more than 10.
    """
    value = headers.get(b"x-tags")
    if value is None:
        return {}
    try:
        entries = value.decode().split(",")
    except UnicodeDecodeError:
        raise BadRequest("x-tags is not valid UTF-8: encode it in UTF-8.") from None
    found: Tags = {}
    for place, entry in enumerate(entries, 1):
        key, is_pair, tag = (part.strip(" \t") for part in entry.partition("="))
        if not is_pair or not _TAG_KEY.fullmatch(key) or not _TAG_VALUE.fullmatch(tag):
            raise BadRequest(
                f"Pair {place} of x-tags must be key=value: a key of 1 to {MAX_TAG_CHARACTERS} letters, digits, '.', "
                f"'_' or '-', and a value of up to {MAX_TAG_CHARACTERS} characters without '=' and control characters."
            )
        found[key] = tag
    if len(entries) > MAX_TAGS:
        raise BadRequest(f"x-tags holds {len(entries)} tags, but at most {MAX_TAGS} are allowed: send fewer.")
    return found


def label(headers: Headers, name: bytes) -> str | None:
    """Return the text of a header such as x-user-id, x-service-name or x-task-type, None if it is missing or blank.

    Raises:
        BadRequest: it is not UTF-8, longer than 256 characters, or contains a control character.
    """
    value = headers.get(name)
    if value is None or not value.strip():
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise BadRequest(f"{name.decode()} is not valid UTF-8: encode it in UTF-8.") from None
    if len(text) > MAX_LABEL_CHARACTERS or any(ord(character) < 32 for character in text):
        raise BadRequest(f"{name.decode()} takes up to {MAX_LABEL_CHARACTERS} characters, without control characters.")
    return text

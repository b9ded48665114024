"""What a caller of the data plane says in headers: how long, what to remember, who pays, which tags."""

from __future__ import annotations

import re

from llm_gateway.domain.request import Tags
from llm_gateway.errors import BadRequest

MAX_TAGS, MAX_TAG_CHARACTERS = 10, 64
MAX_LABEL_CHARACTERS = 256
_TAG = rf"[A-Za-z0-9_.-]{{1,{MAX_TAG_CHARACTERS}}}=[ -+.-<>-~-]{{0,{MAX_TAG_CHARACTERS}}}"
TAGS_PATTERN = rf"^{_TAG}(,{_TAG}){{0,{MAX_TAGS - 1}}}$"
"""x-tags as described: what is taken beside it are blanks around a part, and values in UTF-8."""
_TAG_KEY = re.compile(rf"[A-Za-z0-9_.-]{{1,{MAX_TAG_CHARACTERS}}}")
_TAG_VALUE = re.compile(rf"[^,=\x00-\x1f\x7f]{{0,{MAX_TAG_CHARACTERS}}}")

Headers = dict[bytes, bytes]


def deadline(headers: Headers, started: float, longest_s: float) -> float:
    """When the answer must be there: the configured time from `started`, or what x-request-timeout-ms lowers it to.

    Raises:
        BadRequest: the header holds no whole milliseconds.
    """
    timeout = headers.get(b"x-request-timeout-ms")
    if timeout is None:
        return started + longest_s
    if not timeout.isdigit() or not timeout.strip(b"0"):
        raise BadRequest("x-request-timeout-ms takes whole milliseconds, 1 or more.")
    return started + min(longest_s, float(timeout) / 1000)  # not int(), which refuses what has more than 4300 digits


def caching(headers: Headers) -> tuple[bool, bool]:
    """Whether a kept answer is wanted, and whether the answer may be kept (Cache-Control: no-cache, no-store)."""
    cache_control = headers.get(b"cache-control", b"").lower()
    keep = b"no-store" not in cache_control
    return b"no-cache" not in cache_control and keep, keep


def tags(headers: Headers) -> Tags:
    """The key=value pairs of x-tags.

    Raises:
        BadRequest: they are not, or too many.
    """
    value = headers.get(b"x-tags")
    if value is None:
        return {}
    try:
        entries = value.decode().split(",")
    except UnicodeDecodeError:
        raise BadRequest("x-tags is not UTF-8: encode it so.") from None
    found: Tags = {}
    for entry in entries:
        key, is_pair, tag = (part.strip(" \t") for part in entry.partition("="))
        if not is_pair or not _TAG_KEY.fullmatch(key) or not _TAG_VALUE.fullmatch(tag):
            raise BadRequest(f"x-tags takes key=value,… of up to {MAX_TAG_CHARACTERS} characters each.")
        found[key] = tag
    if len(entries) > MAX_TAGS:
        raise BadRequest(f"x-tags takes up to {MAX_TAGS} tags.")
    return found


def label(headers: Headers, name: bytes) -> str | None:
    """A name in a header: x-user-id, x-service-name, x-task-type; None where there is none.

    Raises:
        BadRequest: it is no UTF-8, too long, or holds a control character.
    """
    value = headers.get(name)
    if value is None or not value.strip():
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise BadRequest(f"{name.decode()} is not UTF-8: encode it so.") from None
    if len(text) > MAX_LABEL_CHARACTERS or any(ord(character) < 32 for character in text):
        raise BadRequest(f"{name.decode()} takes up to {MAX_LABEL_CHARACTERS} characters, none of them a control one.")
    return text

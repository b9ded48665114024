"""Cursors of pages: where the next page begins, sealed with the query that it belongs to."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from hashlib import blake2s

import msgspec

from llm_gateway.errors import Invalid

MOST_CHARACTERS = 512
"""Length of the longest cursor that is read."""


def seal(query: Mapping[str, object], position: str) -> str:
    """Return the cursor for the page at `position` of a query; `query` has its parameters without cursor and limit."""
    return urlsafe_b64encode(msgspec.json.encode([_digest(query), position])).decode().rstrip("=")


def open_cursor(text: str, query: Mapping[str, object]) -> str:
    """Return the position in a cursor.

    Raises:
        Invalid: the text is no cursor, or one of another query.
    """
    try:
        padded = text[:MOST_CHARACTERS].encode() + b"=" * (-len(text) % 4)
        digest, position = msgspec.json.decode(urlsafe_b64decode(padded), type=tuple[str, str])
    except (ValueError, msgspec.MsgspecError, UnicodeError):
        raise Invalid("cursor is not one that this API returned: leave it out.", loc=("query", "cursor")) from None
    if digest != _digest(query):
        raise Invalid(
            "cursor belongs to a query with other parameters: repeat those of the page that returned it, or leave "
            "cursor out.",
            loc=("query", "cursor"),
        )
    return position


def _digest(query: Mapping[str, object]) -> str:
    given = sorted((name, str(value)) for name, value in query.items() if value is not None)
    return blake2s(msgspec.json.encode(given), digest_size=6).hexdigest()

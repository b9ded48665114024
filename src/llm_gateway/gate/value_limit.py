"""Refuse JSON bodies that hold more values than a request has: in memory each takes many times its size in the body."""

from __future__ import annotations

import re

from llm_gateway.errors import PayloadTooLarge

MOST_VALUES = 200_000
SMALL_BYTES = 256 * 1024
"""Up to this size a body is not looked at: it cannot hold enough values to hurt."""
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


def check_number_of_values(body: bytes) -> None:
    """Count the values of a large body without decoding it.

    Every value but the outermost follows a comma or an opening bracket, so those outside of strings are counted.

    Raises:
        PayloadTooLarge: there are more than 200,000.
    """
    if len(body) <= SMALL_BYTES or _separators(body) <= MOST_VALUES:
        return
    quotes = body.count(b'"') - body.count(b'\\"')
    # Cutting out the strings takes a moment for each; more of them than keys and values together need not be cut out.
    if quotes > 4 * MOST_VALUES or _separators(_STRING.sub(b"", body)) > MOST_VALUES:
        raise PayloadTooLarge(f"The body holds more than {MOST_VALUES:,} values: send fewer.")


def _separators(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")

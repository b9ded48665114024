"""Reject JSON bodies with too many values before they are decoded: each takes many times the memory of its text."""

from __future__ import annotations

import re

from llm_gateway.errors import PayloadTooLarge

MOST_VALUES = 200_000
"""Maximum number of values in a body."""
SMALL_BYTES = 256 * 1024
"""Bytes up to which a body is not checked: it cannot contain enough values to matter."""
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


def check_number_of_values(body: bytes) -> None:
    """Check the number of values in a large body without decoding it.

    All values but the outermost follow a comma or an opening bracket, so the function counts those outside of strings.

    Raises:
        PayloadTooLarge: the body contains more than 200,000 values.
    """
    if len(body) <= SMALL_BYTES or _separators(body) <= MOST_VALUES:
        return
    quotes = body.count(b'"') - body.count(b'\\"')
    # Removing strings takes time for each. A body with more strings than twice the maximum of values (each with a key)
    # is over the limit anyway.
    if quotes > 4 * MOST_VALUES or _separators(_STRING.sub(b"", body)) > MOST_VALUES:
        raise PayloadTooLarge(f"The body holds more than {MOST_VALUES:,} values: send fewer.")


def _separators(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")

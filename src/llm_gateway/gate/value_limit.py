"""Reject JSON bodies with too many values before they are decoded: each takes many times the memory of its text."""

from __future__ import annotations

from llm_gateway.errors import PayloadTooLarge
from llm_gateway.json_outline import SMALL_BYTES, Buffer, Outline, TooManyValues, outline_of

MOST_VALUES = 200_000
"""Maximum number of values in a body."""


async def check_number_of_values(body: Buffer) -> None:
    """Check the number of values in a large body without decoding it.

    Raises:
        PayloadTooLarge: the body contains more than 200,000 values.
    """
    if len(body) > SMALL_BYTES:
        await checked_outline(body, most_bytes=0)


async def checked_outline(body: Buffer, *, most_bytes: int, most_values: int = MOST_VALUES) -> Outline:
    """Return the outline of a body (`json_outline.scan`).

    Raises:
        PayloadTooLarge: the body contains more than `most_values`.
    """
    try:
        return await outline_of(body, most_bytes=most_bytes, most_values=most_values)
    except TooManyValues:
        raise PayloadTooLarge(f"The body holds more than {most_values:,} values: send fewer.") from None

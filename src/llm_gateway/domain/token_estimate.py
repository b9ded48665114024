"""Estimate input and output tokens from the length of texts, without a tokenizer."""

from __future__ import annotations

from typing import Any

import msgspec

CHARACTERS_PER_TOKEN, FRAMING_TOKENS = 4, 8
"""ASCII characters of an input that are a token, and tokens that frame its messages."""
INLINE_FILE_LENGTH = CHARACTERS_PER_TOKEN * 1500
"""Length of an inlined image or file: four characters for each of 1,500 tokens, about a page or a large image."""
INLINE_CHARACTERS = 2000
"""A longer text without whitespace in its first characters, this many, counts as base64 data."""


class InputSize(msgspec.Struct, frozen=True, gc=False):
    """The size of a request's input, for a bound of its tokens.

    Attributes:
        bytes: those of its texts in UTF-8, of which no token takes less than one.
        pictures: their number. The address or the data of a picture does not tell its tokens.
        has_files: whether there are files, videos or audio, whose tokens nothing in the request bounds.
        has_audio: whether the input or the answer can have audio, which can have a price of its own.
        hosted_tool: name of a tool that the provider runs, and may bill apart; None if there is none.
        is_plain: whether there is nothing but texts.
    """

    bytes: int = 0
    pictures: int = 0
    has_files: bool = False
    has_audio: bool = False
    hosted_tool: str | None = None
    is_plain: bool = True


def estimated_tokens(input_length: int) -> int:
    """Estimate the tokens of an input: by its characters, and those that frame its messages."""
    return input_length // CHARACTERS_PER_TOKEN + FRAMING_TOKENS


def estimated_output_tokens(characters: int) -> int:
    """Estimate the tokens of an answer from its length: one per four characters."""
    return characters // CHARACTERS_PER_TOKEN + 1


def equivalent_length(text: str) -> int:
    """Return the number of ASCII characters that take as many tokens as `text`: 4 per 3 bytes if it is not ASCII."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")) * 4 // 3


def equivalent_length_of(document: dict[str, Any], fields: tuple[str, ...]) -> int:
    """Return the number of ASCII characters that take as many tokens as these `fields` of a request document."""
    waiting: list[Any] = [document[name] for name in fields if name in document]
    total = 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            size = len(value)
            total += size if size <= INLINE_CHARACTERS and value.isascii() else _length_of(value)
        elif isinstance(value, list):
            if value and type(value[0]) is int:  # tokens in the place of a text, of a request for embeddings
                total += CHARACTERS_PER_TOKEN * len(value)
            else:
                waiting += value
        elif isinstance(value, dict):
            total += sum(map(len, value))
            waiting += value.values()
    return total


def _length_of(text: str) -> int:
    """Return INLINE_FILE_LENGTH if `text` looks like base64 (long, no whitespace at its start), else its length."""
    if len(text) > INLINE_CHARACTERS and " " not in text[:INLINE_CHARACTERS] and "\n" not in text[:INLINE_CHARACTERS]:
        return INLINE_FILE_LENGTH
    return equivalent_length(text)

"""Estimate the input tokens of a request before any provider has counted them."""

from __future__ import annotations

from typing import Any

PICTURE_WEIGHT = 4 * 1500
"""Of a picture or file that is inlined or linked: about what a page or a large picture takes."""
INLINE_CHARACTERS = 2000


def estimated_tokens(input_weight: int) -> int:
    """Estimate the tokens of an input: four ASCII characters or three UTF-8 bytes each, plus the messages' framing."""
    return input_weight // 4 + 8


def estimated_output_tokens(characters: int) -> int:
    """Estimate the tokens of an answer from its length: four characters each."""
    return characters // 4 + 1


def weight(text: str) -> int:
    """How many ASCII characters would take as many tokens."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")) * 4 // 3


def weigh(document: dict[str, Any], fields: tuple[str, ...]) -> int:
    """Return how many ASCII characters would take as many tokens as these fields of the document."""
    waiting: list[Any] = [document[name] for name in fields if name in document]
    total = 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            total += _weight_of(value)
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            total += sum(map(len, value))
            waiting += value.values()
    return total


def _weight_of(text: str) -> int:
    """Base64 has no blanks: a long text without any near its beginning is taken for a picture or a file."""
    if len(text) > INLINE_CHARACTERS and " " not in text[:INLINE_CHARACTERS] and "\n" not in text[:INLINE_CHARACTERS]:
        return PICTURE_WEIGHT
    return weight(text)

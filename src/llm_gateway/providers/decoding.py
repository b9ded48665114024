"""What all dialects read alike: names cut, counts believed or not, errors in words, JSON found in prose. Pure."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from llm_gateway.domain.usage import Usage
from llm_gateway.providers.base import MalformedReply

T = TypeVar("T")

ERROR_TEXT_CHARACTERS = 2000
"""More than is shown, so that secrets are found whole before the rest is cut."""
MAX_COUNT = 10**9
"""Tokens; no call has more, so a larger count is none."""
NAME_CHARACTERS = 256
"""What is kept of a model's name or an id: a record must not grow with what a provider makes up."""

PARSE_ERRORS = (msgspec.DecodeError, UnicodeError, RecursionError)
FENCE = "```"


def parse(decoder: msgspec.json.Decoder[T], body: bytes, what: str) -> T:
    """The document in a 2xx body.

    Raises:
        MalformedReply: the body is not `what` (in words: "chat completion").
    """
    try:
        return decoder.decode(body)
    except PARSE_ERRORS as error:
        raise MalformedReply(f"The answer is no {what}: {error}") from None


def cut(name: str | None) -> str | None:
    """A name as it is kept."""
    return name if name is None else name[:NAME_CHARACTERS]


def credible(*counts: int) -> bool:
    """Whether all of them, and their sum, can be counts of one call."""
    return min(counts) >= 0 and sum(counts) <= MAX_COUNT


def within(total: int, part: int | None) -> int:
    """A part of a total, as far as it can be one."""
    return min(max(part or 0, 0), total)


def guessed(content: str) -> Usage:
    """What an answer took whose provider counted nothing: only the output can be guessed from it."""
    return Usage(output_tokens=len(content) // 4 + 1)


def error_of(body: bytes) -> dict[str, Any]:
    """The object that describes the error in a body, empty if there is none.

    It is under `error`, or the document itself; Gemini sends a list of such documents now and then.
    """
    try:
        document: Any = msgspec.json.decode(body)
    except PARSE_ERRORS:
        return {}
    if isinstance(document, list) and document:
        document = document[0]
    if not isinstance(document, dict):
        return {}
    error = document.get("error", document)
    return error if isinstance(error, dict) else {"message": error}


def error_text(body: bytes) -> str:
    """The provider's own message in an error body, or its beginning as text."""
    message = error_of(body).get("message")
    if isinstance(message, str) and message:
        return message[:ERROR_TEXT_CHARACTERS]
    return body[:ERROR_TEXT_CHARACTERS].decode("utf-8", "replace").strip()


def json_text(content: str) -> str | None:
    """The JSON a model answered with; None if it is none.

    Where nothing forces a model to write JSON only, many wrap it in a Markdown fence, which is taken off.
    """
    if _is_json(content):
        return content
    text = content.strip()
    if len(text) > 2 * len(FENCE) and text.startswith(FENCE) and text.endswith(FENCE):
        label, _, inner = text[len(FENCE) : -len(FENCE)].partition("\n")
        if label.strip().lower() in ("", "json") and _is_json(inner):
            return inner.strip()
    return None


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except PARSE_ERRORS:
        return False
    return True

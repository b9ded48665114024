"""Extract error messages from response bodies, and JSON from a model's text (shared by all dialects)."""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.protocols.contract import PARSE_ERRORS

ERROR_TEXT_CHARACTERS = 2000
"""Limit of an error message. Longer than what is shown: secrets must be redacted before the final cut, while whole."""

FENCE = "```"
"""Markdown's mark around a code block."""


def error_of(body: bytes) -> dict[str, Any]:
    """Return the object that describes the error in a response body; an empty one if the body describes no error.

    It is the value of `error`, or the document itself. Gemini sometimes sends a list with one such document.
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
    """Return the provider's message in an error body, else the start of the body as text."""
    message = error_of(body).get("message")
    if isinstance(message, str) and message:
        return message[:ERROR_TEXT_CHARACTERS]
    return body[:ERROR_TEXT_CHARACTERS].decode("utf-8", "replace").strip()


def json_text(content: str) -> str | None:
    """Return the JSON text in a model's answer, None if the answer is not JSON.

    Removes a Markdown code fence around it: many models add one unless the API enforces JSON.
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

"""What all dialects read alike: errors in words, JSON found in prose. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.protocols.contract import PARSE_ERRORS

ERROR_TEXT_CHARACTERS = 2000
"""More than is shown, so that secrets are found whole before the rest is cut."""

FENCE = "```"


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

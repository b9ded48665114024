"""Google's countTokens: https://ai.google.dev/api/tokens."""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.protocols.accessors import child
from llm_gateway.protocols.contract import Unreadable
from llm_gateway.protocols.gemini.field_names import camel_names


def counted_request(document: dict[str, Any]) -> dict[str, Any]:
    """Return the request whose tokens are to be counted: `generateContentRequest`, or the document's own contents.

    Raises:
        Unreadable: there is neither, or both.
    """
    document = camel_names(document)
    whole = child(document, "generateContentRequest")
    if (whole is None) == (document.get("contents") is None):
        raise Unreadable("contents", "contents or generateContentRequest is required, and not both.")
    return document if whole is None else camel_names(whole)


def write_count(tokens: int) -> bytes:
    """Return the answer of countTokens."""
    return msgspec.json.encode({"totalTokens": tokens})

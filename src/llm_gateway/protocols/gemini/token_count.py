"""Read countTokens requests and write their responses: https://ai.google.dev/api/tokens."""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.protocols.accessors import object_field
from llm_gateway.protocols.contract import Unreadable
from llm_gateway.protocols.gemini.field_names import camel_names


def counted_request(document: dict[str, Any]) -> dict[str, Any]:
    """Return the request whose tokens to count: `generateContentRequest`, or the document itself with its `contents`.

    Raises:
        Unreadable: the document has neither, or both.
    """
    document = camel_names(document)
    request = object_field(document, "generateContentRequest")
    if (request is None) == (document.get("contents") is None):
        raise Unreadable("contents", "either contents or generateContentRequest is required, not both.")
    return document if request is None else camel_names(request)


def write_count(tokens: int) -> bytes:
    """Encode the response of countTokens."""
    return msgspec.json.encode({"totalTokens": tokens})

"""Write error responses in Anthropic's format for Messages clients: https://platform.claude.com/docs/en/api/errors."""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.errors import GatewayError, Overloaded

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""HTTP status → `error.type`, from which Anthropic's SDKs choose the exception class."""
SCHEMA: dict[str, Any] = {
    "title": "AnthropicError",
    "type": "object",
    "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}, "code": {"type": "string"}},
        },
        "request_id": {"type": "string"},
    },
}


def write_error(error: GatewayError, request_id: str) -> bytes:
    """Encode an error response. `error.code` is the gateway's own error code, an addition to Anthropic's format."""
    return msgspec.json.encode(error_document(error.detail, error.code, error.status) | {"request_id": request_id})


def error_document(message: str, code: str, status: int) -> dict[str, object]:
    """Return the document of an error response without its request id; an `error` event of a stream has the same."""
    kind = "overloaded_error" if code == Overloaded.code else TYPES.get(status, "api_error")
    if 400 <= status < 500 and status not in TYPES:
        kind = "invalid_request_error"
    return {"type": "error", "error": {"type": kind, "message": message, "code": code}}

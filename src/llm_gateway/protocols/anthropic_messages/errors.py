"""Write error responses in Anthropic's format for Messages clients: https://platform.claude.com/docs/en/api/errors."""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.errors import CONTENT_FILTER, CONTEXT_LENGTH, GatewayError, Overloaded, ProviderRefused

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""HTTP status → `error.type`, from which Anthropic's SDKs choose the exception class."""
STREAM_STATUSES = {CONTEXT_LENGTH: 400, CONTENT_FILTER: 400, ProviderRefused.code: 400}
"""Error code → HTTP status, for errors in a stream, whose own status was sent as 200; 500 for others."""
VOCABULARY = "anthropic"
"""Kind of the providers whose errors have Anthropic's types."""
TOO_LONG = "prompt is too long: "
"""Start of the message by which Claude Code knows that it must compact its history. It also looks for `N tokens > M`:
https://github.com/sbluemin/fleet-harness/pull/461 (2026-11-27)."""
MAX_TOKENS_TOO_LARGE = "exceed context limit"
"""Part of the message on which Claude Code sends the request again with less `max_tokens`:
https://github.com/musistudio/claude-code-router/issues/1799 (2026-11-27)."""
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
    """Encode an error response. `error.code`, an addition to Anthropic's format, is the gateway's own error code.

    `error.type` is the provider's own if it speaks Anthropic's protocol and the error is its.
    """
    reported = error.reported
    document = error_document(
        message_of(error), error.shown_code, error.status if reported is None else reported.status
    )
    if reported is not None and reported.vocabulary == VOCABULARY and reported.type is not None:
        document["error"]["type"] = reported.type
    return msgspec.json.encode(document | {"request_id": request_id})


def message_of(error: GatewayError) -> str:
    """Return the error's message; in Anthropic's words if another vendor says that the prompt is too long."""
    reported = error.reported
    if reported is None or reported.meaning != CONTEXT_LENGTH:
        return error.detail
    if TOO_LONG.rstrip(": ") in error.detail.lower() or MAX_TOKENS_TOO_LARGE in error.detail:
        return error.detail
    if reported.tokens is None or reported.limit is None or reported.tokens <= reported.limit:
        return TOO_LONG + error.detail
    return f"{TOO_LONG}{reported.tokens} tokens > {reported.limit} maximum. {error.detail}"


def error_document(message: str, code: str, status: int) -> dict[str, Any]:
    """Return the document of an error response without its request id; an `error` event of a stream has the same."""
    kind = "overloaded_error" if code == Overloaded.code else TYPES.get(status, "api_error")
    if 400 <= status < 500 and status not in TYPES:
        kind = "invalid_request_error"
    return {"type": "error", "error": {"type": kind, "message": message, "code": code}}

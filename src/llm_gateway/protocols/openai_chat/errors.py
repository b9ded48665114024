"""Write error responses in OpenAI's format: https://platform.openai.com/docs/guides/error-codes."""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.errors import BudgetExceeded, GatewayError, Invalid, NotSupported

VOCABULARIES = ("openai", "local")
"""Kinds of providers whose errors have OpenAI's codes and types."""
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    426: "invalid_request_error",
    429: "rate_limit_error",
}
"""OpenAI's error `type` by HTTP status; every other status is a `server_error`."""
QUOTA = "insufficient_quota"
"""OpenAI's `type` of an account without credit, on which its clients do not try again."""
SCHEMA: dict[str, Any] = {
    "title": "OpenAIError",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
                "request_id": {"type": "string"},
                "resets_at": {"type": "integer"},
            },
        }
    },
}
"""JSON schema of an error response; `request_id` is the gateway's addition. `resets_at` (seconds UTC) comes with
`usage_limit_reached` of the Responses API."""


def write_error(error: GatewayError, request_id: str) -> bytes:
    """Encode the error; `param` is the path of the invalid field.

    `code`, `type` and `param` are the provider's own if it speaks OpenAI's protocol and the error is its; else `code`
    is the gateway's error code. Whatever the provider's words, an exceeded context window and a content filter have
    OpenAI's codes: Codex compacts its history on `context_length_exceeded`.
    """
    reported = error.reported
    own = reported if reported is not None and reported.vocabulary in VOCABULARIES else None
    kind = TYPES.get(error.status if reported is None else reported.status, "server_error")
    return msgspec.json.encode(
        {
            "error": {
                "message": error.detail,
                "type": (own.type if own is not None else None) or type_of(error, kind),
                "param": own.param if own is not None else param_of(error),
                "code": code_of(error),
                "request_id": request_id,
            }
        }
    )


def type_of(error: GatewayError, kind: str) -> str:
    """Return the type of an error: OpenAI's own for a budget that is used up, else `kind`."""
    return QUOTA if isinstance(error, BudgetExceeded) else kind


def code_of(error: GatewayError) -> str:
    """Return the error code for a client of OpenAI's protocol; see `write_error`."""
    reported = error.reported
    if reported is None:
        return error.code
    own = reported.code if reported.vocabulary in VOCABULARIES else None
    return reported.meaning or own or error.shown_code


def param_of(error: GatewayError) -> str | None:
    """Return the path of the invalid request field, or None if the error does not concern one."""
    if isinstance(error, NotSupported):
        return error.field
    if isinstance(error, Invalid):
        loc = error.errors[0]["loc"]
        parts = [str(part) for part in loc[1:]] if isinstance(loc, list) else []  # without the leading "body"
        return ".".join(parts) or None
    return None

"""Write error responses in Google's format for Gemini clients: https://google.aip.dev/193."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from llm_gateway.errors import (
    CONTENT_FILTER,
    CONTEXT_LENGTH,
    GatewayError,
    Invalid,
    NotSupported,
    ProviderRefused,
)

STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    409: "ALREADY_EXISTS",
    413: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""HTTP status → `error.status`: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto."""
STREAM_CODES = {
    error.code: 400 if issubclass(error, Invalid | ProviderRefused) else error.status
    for error in GatewayError.__subclasses__()
} | {CONTEXT_LENGTH: 400, CONTENT_FILTER: 400}
"""Error code of the gateway → HTTP status, for errors in a stream, whose own status was sent as 200."""
VOCABULARY = "gemini"
"""Kind of the providers whose errors have Google's status words."""
DOMAIN = "llm-gateway"
TYPE = "type.googleapis.com/google.rpc."
SCHEMA: dict[str, Any] = {
    "title": "GoogleError",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "status", "details"],
            "properties": {
                "code": {"type": "integer"},
                "message": {"type": "string"},
                "status": {"type": "string"},
                "details": {"type": "array", "items": {"type": "object", "required": ["@type"]}},
            },
        }
    },
}


def write_error(error: GatewayError, request_id: str) -> bytes:
    """Encode an error response. The gateway's own error code is `details[0].metadata.code`.

    `error.status` is the provider's own if it speaks Google's protocol and the error is its.
    """
    details: list[dict[str, Any]] = [{"@type": f"{TYPE}RequestInfo", "requestId": request_id}]
    field = _field_of(error)
    if field:
        violation = {"field": field, "description": error.detail}
        details.append({"@type": f"{TYPE}BadRequest", "fieldViolations": [violation]})
    if error.budget is not None and not error.retryable:
        violation = {"subject": f"{error.budget.name} ({error.budget.scope})", "description": error.detail}
        details.append({"@type": f"{TYPE}QuotaFailure", "violations": [violation]})
    if error.retry_after_s is not None:
        details.append({"@type": f"{TYPE}RetryInfo", "retryDelay": duration(error.retry_after_s)})
    status = 400 if isinstance(error, Invalid) else error.status
    document = error_document(error.detail, error.shown_code, status, details)
    reported = error.reported
    if reported is not None:
        own = reported.code if reported.vocabulary == VOCABULARY else None
        document["error"]["status"] = own or _status_word(reported.status)
    return msgspec.json.encode(document)


def duration(seconds: float) -> str:
    """Format a `google.protobuf.Duration` of at least 1 ms ("37.8s"): https://protobuf.dev/programming-guides/json/."""
    whole, milliseconds = divmod(max(1, math.ceil(seconds * 1000)), 1000)
    return f"{whole}.{milliseconds:03}".rstrip("0").rstrip(".") + "s" if milliseconds else f"{whole}s"


def error_document(message: str, code: str, status: int, details: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return the document of an error response, or of the last event of a failed stream. `error` must come first."""
    info = {"@type": f"{TYPE}ErrorInfo", "reason": code.upper(), "domain": DOMAIN, "metadata": {"code": code}}
    word = _status_word(status)
    return {"error": {"code": status, "message": message, "status": word, "details": [info, *(details or ())]}}


def _status_word(status: int) -> str:
    return STATUSES.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL")


def _field_of(error: GatewayError) -> str | None:
    """Return the path of the request field that caused the error, None if no single field did."""
    if isinstance(error, NotSupported):
        return error.field
    if isinstance(error, Invalid):
        loc = error.errors[0]["loc"]
        return ".".join([str(part) for part in loc[1:]]) if isinstance(loc, list) else None
    return None

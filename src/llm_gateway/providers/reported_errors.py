"""Read what a provider reports in an error: its own words, and the HTTP status of one that came without a status.

An error can come in the body of an answer with status 200, or as an event of a stream. Then its words decide what
status it would have had, so that it is classified like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from llm_gateway.domain.upstream_refusal import UpstreamRefusal
from llm_gateway.errors import CONTENT_FILTER, CONTEXT_LENGTH, ReportedError
from llm_gateway.protocols.contract import PARSE_ERRORS
from llm_gateway.providers.context_errors import context_limit

MAX_CHARACTERS = 500
"""Length to which a provider's own error message is cut."""
MAX_WORD_CHARACTERS = 100
"""Length of a code, type or param; a longer one is dropped."""
STATUS_BY_WORD = {
    # https://platform.claude.com/docs/en/api/errors, 2026-11-27
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
    # https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto, 2026-11-27
    "invalid_argument": 400,
    "failed_precondition": 400,
    "out_of_range": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "aborted": 409,
    "resource_exhausted": 429,
    "internal": 500,
    "unimplemented": 501,
    "unavailable": 503,
    "deadline_exceeded": 504,
    # OpenAI: https://platform.openai.com/docs/guides/error-codes, the codes of `response.error` in its Responses API,
    # and those that its own client distinguishes (https://github.com/openai/codex, sse/responses.rs), 2026-11-27
    "context_length_exceeded": 400,
    "invalid_prompt": 400,
    "invalid_encrypted_content": 400,
    "content_filter": 400,
    "content_policy_violation": 400,
    "invalid_api_key": 401,
    "model_not_found": 404,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "credit_balance_exhausted": 429,
    "organization_spend_limit_exceeded": 429,
    "project_spend_limit_exceeded": 429,
    "organization_usage_limit_exceeded": 429,
    "exceeded_current_quota_error": 429,
    "slow_down": 503,
    "server_is_overloaded": 503,
    "server_error": 500,
}
"""Word in `code`, `status` or `type` of an error → the HTTP status that it comes with, in lower case."""


def status_of(error: dict[str, Any]) -> int:
    """Return the HTTP status that an error object names, by number or by word; 0 if it names none."""
    for value in (error.get("code"), error.get("status"), error.get("type")):
        if isinstance(value, str):
            status = int(value) if value.isdecimal() and len(value) == 3 else STATUS_BY_WORD.get(value.lower(), 0)
        else:
            status = value if isinstance(value, int) else 0
        if 400 <= status < 600:
            return status
    return 400 if context_limit(error) is not None else 0


def error_in_answer(body: bytes) -> dict[str, Any] | None:
    """Return the error object in the body of an answer with status 200, None if it holds no error.

    OpenRouter puts an error into a choice, too: https://openrouter.ai/docs/api/reference/errors-and-debugging. One
    behind content is no refusal: the content was billed.
    """
    try:
        document: Any = msgspec.json.decode(body)
    except PARSE_ERRORS:
        return None
    if isinstance(document, list) and document:
        document = document[0]
    if not isinstance(document, dict):
        return None
    error = document.get("error")
    if not error and document.get("object") == "error":  # https://github.com/musistudio/claude-code-router/issues/1799
        error = document
    choices = document.get("choices")
    if not error and isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], dict):
        message = choices[0].get("message")
        has_content = isinstance(message, dict) and bool(message.get("content") or message.get("tool_calls"))
        error = None if has_content else choices[0].get("error")
    if not error:
        return None
    return error if isinstance(error, dict) else {"message": str(error)}


def reported_error(
    error: dict[str, Any], vocabulary: str, status: int, refusal: UpstreamRefusal, redact: Callable[[str], str]
) -> ReportedError | None:
    """Return the provider's own error for the client; None if its body has no message. `redact` removes secrets.

    `vocabulary` is the kind of the provider, whose words they are.
    """
    message = error.get("message")
    if not isinstance(message, str) or not message.strip():
        return None
    meaning = {"context_length": CONTEXT_LENGTH, "content_filter": CONTENT_FILTER}.get(refusal.reason, "")
    found = context_limit(error) if meaning == CONTEXT_LENGTH else None
    code = error.get("code")
    return ReportedError(
        vocabulary=vocabulary,
        status=status,
        # Redact before cutting: half a key would no longer be recognised as one.
        message=redact(message)[:MAX_CHARACTERS],
        code=_word(code if isinstance(code, str) and not code.isdecimal() else error.get("status"), redact),
        type=_word(error.get("type"), redact),
        param=_word(error.get("param"), redact),
        meaning=meaning,
        tokens=found.tokens if found is not None else None,
        limit=found.limit if found is not None else None,
    )


def _word(value: Any, redact: Callable[[str], str]) -> str | None:
    """Return a short text without secrets, None for anything else."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_WORD_CHARACTERS:
        return None
    return value if redact(value) == value else None

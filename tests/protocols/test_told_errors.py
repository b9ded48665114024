"""A provider's error in each client's protocol: the provider's own words, or those that the client's agents know."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llm_gateway.errors import GatewayError, ProviderFailed, ProviderRefused, ReportedError
from llm_gateway.protocols.contract import ReplyContext
from llm_gateway.protocols.registry import PROTOCOLS
from tests.rows import each_row

OPENAI_BAD = ReportedError("openai", 400, "No.", "invalid_value", "invalid_request_error", "messages[0].role")
ANTHROPIC_BAD = ReportedError("anthropic", 400, "No.", None, "invalid_request_error")
GEMINI_BAD = ReportedError("gemini", 400, "No.", "INVALID_ARGUMENT")
ANTHROPIC_BUSY = ReportedError("anthropic", 529, "Overloaded", None, "overloaded_error")
OPENAI_DOWN = ReportedError("openai", 500, "It failed.", "server_is_overloaded", "server_error")
GEMINI_LONG = ReportedError(
    "gemini", 400, "The input token count (9) exceeds the maximum number of tokens allowed (5).", "INVALID_ARGUMENT",
    meaning="context_length_exceeded", tokens=9, limit=5,
)  # fmt: skip
OPENAI_LONG = ReportedError(
    "openai", 400, "Your input exceeds the context window of this model.", "context_length_exceeded",
    "invalid_request_error", "input", meaning="context_length_exceeded",
)  # fmt: skip
CLAUDE_LONG = ReportedError(
    "anthropic", 400, "prompt is too long: 9 tokens > 5 maximum", None, "invalid_request_error",
    meaning="context_length_exceeded", tokens=9, limit=5,
)  # fmt: skip
CLAUDE_MAX_TOKENS = ReportedError(
    "anthropic", 400, "input length and `max_tokens` exceed context limit: 8 + 3 > 9, decrease …", None,
    "invalid_request_error", meaning="context_length_exceeded",
)  # fmt: skip
FLAGGED = ReportedError("openai", 403, "The input was flagged.", None, None, meaning="content_filter")


def error_of(reported: ReportedError) -> GatewayError:
    """Return the error of a provider's response as the pipeline raises it."""
    error: ProviderRefused | ProviderFailed = (
        ProviderRefused(reported.message, status=reported.status)
        if reported.status < 500
        else ProviderFailed(reported.message)
    )
    error.provider, error.reported = "acme", reported
    return error


def written(protocol: str, reported: ReportedError) -> Any:
    """Return the error object that a client of the protocol gets."""
    return msgspec.json.decode(PROTOCOLS[protocol].write_error(error_of(reported), "id"))["error"]


@each_row(
    ("reported", "code", "kind", "param"),
    [
        (OPENAI_BAD, "invalid_value", "invalid_request_error", "messages[0].role"),
        (ANTHROPIC_BAD, "provider_refused", "invalid_request_error", None),
        (GEMINI_BAD, "provider_refused", "invalid_request_error", None),
        (OPENAI_DOWN, "server_is_overloaded", "server_error", None),
        (ANTHROPIC_BUSY, "provider_error", "server_error", None),
        (GEMINI_LONG, "context_length_exceeded", "invalid_request_error", None),
        (CLAUDE_LONG, "context_length_exceeded", "invalid_request_error", None),
        (OPENAI_LONG, "context_length_exceeded", "invalid_request_error", "input"),
        (FLAGGED, "content_filter", "permission_error", None),
    ],
)
@each_row("protocol", ["openai_chat", "openai_responses", "openai_embeddings"])
def test_openais_clients_get_the_providers_words(
    protocol: str, reported: ReportedError, code: str, kind: str, param: str | None
) -> None:
    error = written(protocol, reported)

    assert error == {"message": reported.message, "type": kind, "param": param, "code": code, "request_id": "id"}


@pytest.mark.parametrize(
    ("reported", "kind", "message", "code"),
    [
        (ANTHROPIC_BAD, "invalid_request_error", "No.", "provider_refused"),
        (OPENAI_BAD, "invalid_request_error", "No.", "provider_refused"),
        (GEMINI_BAD, "invalid_request_error", "No.", "provider_refused"),
        (ANTHROPIC_BUSY, "overloaded_error", "Overloaded", "provider_error"),
        (OPENAI_DOWN, "api_error", "It failed.", "provider_error"),
        (FLAGGED, "permission_error", "The input was flagged.", "content_filter"),
        (CLAUDE_LONG, "invalid_request_error", CLAUDE_LONG.message, "context_length_exceeded"),
        (CLAUDE_MAX_TOKENS, "invalid_request_error", CLAUDE_MAX_TOKENS.message, "context_length_exceeded"),
        (
            GEMINI_LONG,
            "invalid_request_error",
            f"prompt is too long: 9 tokens > 5 maximum. {GEMINI_LONG.message}",
            "context_length_exceeded",
        ),
        (
            OPENAI_LONG,
            "invalid_request_error",
            f"prompt is too long: {OPENAI_LONG.message}",
            "context_length_exceeded",
        ),
    ],
)
def test_anthropics_clients_get_the_providers_words_or_claude_codes(
    reported: ReportedError, kind: str, message: str, code: str
) -> None:
    assert written("anthropic_messages", reported) == {"type": kind, "message": message, "code": code}


@pytest.mark.parametrize(
    ("reported", "status", "word", "code"),
    [
        (GEMINI_BAD, 400, "INVALID_ARGUMENT", "provider_refused"),
        (ANTHROPIC_BAD, 400, "INVALID_ARGUMENT", "provider_refused"),
        (ReportedError("gemini", 400, "No.", "FAILED_PRECONDITION"), 400, "FAILED_PRECONDITION", "provider_refused"),
        (ReportedError("gemini", 503, "Busy.", "UNAVAILABLE"), 502, "UNAVAILABLE", "provider_error"),
        (OPENAI_DOWN, 502, "INTERNAL", "provider_error"),
        (OPENAI_LONG, 400, "INVALID_ARGUMENT", "context_length_exceeded"),
        (FLAGGED, 403, "PERMISSION_DENIED", "content_filter"),
    ],
)
def test_googles_clients_get_the_providers_words(reported: ReportedError, status: int, word: str, code: str) -> None:
    error = written("gemini_content", reported)

    assert (error["code"], error["status"], error["message"]) == (status, word, reported.message)
    assert error["details"][0]["metadata"] == {"code": code}


CONTEXT = ReplyContext(request_id="1", model="m", created_s=7, document={})


def in_stream(protocol: str, reported: ReportedError) -> str:
    """Return the events that end a stream with this error."""
    descriptor, error = PROTOCOLS[protocol], error_of(reported)
    assert descriptor.stream_writer is not None
    writer = descriptor.stream_writer(CONTEXT)
    return writer.error(descriptor.error_message(error), descriptor.error_code(error)).decode()


def test_codex_gets_a_full_context_window_as_a_failed_response() -> None:
    events = in_stream("openai_responses", GEMINI_LONG).strip().split("\n\n")

    assert [event.split("\n")[0] for event in events] == [
        "event: response.created",
        "event: response.in_progress",
        "event: response.failed",
    ]
    response = msgspec.json.decode(events[-1].split("data: ")[1])["response"]
    assert response["status"] == "failed"
    assert response["error"] == {"code": "context_length_exceeded", "message": GEMINI_LONG.message}


def test_other_errors_end_a_response_with_an_error_event() -> None:
    (event,) = in_stream("openai_responses", OPENAI_DOWN).strip().split("\n\n")

    assert msgspec.json.decode(event.split("data: ")[1])["code"] == "server_is_overloaded"


def test_claude_code_gets_a_full_context_window_in_a_stream_that_has_begun() -> None:
    event = msgspec.json.decode(in_stream("anthropic_messages", GEMINI_LONG).split("data: ")[1])

    assert event["error"]["type"] == "invalid_request_error"
    assert event["error"]["message"].startswith("prompt is too long: 9 tokens > 5 maximum")

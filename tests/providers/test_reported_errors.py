"""Errors without a status of their own, and what of a provider's words reaches the client."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.upstream_refusal import FLAGGED, TOO_LONG, UpstreamRefusal
from llm_gateway.errors import ReportedError
from llm_gateway.providers.reported_errors import error_in_answer, reported_error, status_of
from llm_gateway.telemetry.redaction import Redactor

KEY = "configured-key-0123456789"
REDACT = Redactor([KEY])
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["code", "message"]), inner, max_size=2)
    ),
)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, 529),
        ({"type": "rate_limit_error"}, 429),
        ({"type": "invalid_request_error", "message": "no"}, 400),
        ({"code": 503, "status": "UNAVAILABLE"}, 503),
        ({"status": "RESOURCE_EXHAUSTED"}, 429),
        ({"code": 429, "message": "Rate limited", "metadata": {}}, 429),
        ({"code": "502"}, 502),
        ({"code": "rate_limit_exceeded", "type": "tokens"}, 429),
        ({"code": "insufficient_quota", "type": "insufficient_quota"}, 429),
        ({"code": "server_error"}, 500),
        ({"code": None, "type": "server_error"}, 500),
        ({"code": "context_length_exceeded"}, 400),
        ({"message": "prompt is too long"}, 400),
        ({"message": "on fire"}, 0),
        ({"code": 200, "type": "odd"}, 0),
        ({"code": True, "type": ["odd"]}, 0),
        ({"code": "999"}, 0),
    ],
)
def test_the_status_that_an_error_names_is_found(error: dict[str, Any], status: int) -> None:
    assert status_of(error) == status


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({"error": {"code": 429, "message": "slow"}}, {"code": 429, "message": "slow"}),
        ([{"error": {"code": 503}}], {"code": 503}),
        ({"error": "overloaded"}, {"message": "overloaded"}),
        ({"object": "error", "message": "no", "code": 400}, {"object": "error", "message": "no", "code": 400}),
        ({"choices": [{"error": {"code": 502}, "finish_reason": "error", "message": {"content": ""}}]}, {"code": 502}),
        ({"choices": [{"error": {"code": 502}, "message": {"content": "Half an"}}]}, None),
        (
            {"status": "failed", "error": {"code": "server_error", "message": "x"}},
            {"code": "server_error", "message": "x"},
        ),
        ({"error": None, "choices": []}, None),
        ({"choices": "none"}, None),
        ("odd", None),
        ([], None),
    ],
)
def test_an_error_in_an_answer_is_found(document: Any, error: Any) -> None:
    assert error_in_answer(msgspec.json.encode(document)) == error


@given(st.binary(max_size=50) | st.fixed_dictionaries({"error": ANY, "choices": ANY}).map(msgspec.json.encode))
def test_any_answer_is_searched_for_an_error(body: bytes) -> None:
    found = error_in_answer(body)
    assert found is None or isinstance(status_of(found), int)


def read(error: dict[str, Any], refusal: UpstreamRefusal = FLAGGED) -> ReportedError | None:
    return reported_error(error, "openai", 400, refusal, REDACT)


def test_code_type_param_and_message_are_kept() -> None:
    error = {"message": "No.", "code": "bad", "type": "invalid_request_error", "param": "messages[0]"}

    assert read(error, UpstreamRefusal("request")) == ReportedError(
        "openai", 400, "No.", "bad", "invalid_request_error", "messages[0]"
    )


def test_the_meaning_is_openais_code_for_it() -> None:
    found = read({"message": "prompt is too long: 9 tokens > 5 maximum"}, TOO_LONG)

    assert found is not None
    assert (found.meaning, found.tokens, found.limit) == ("context_length_exceeded", 9, 5)
    flagged = read({"message": "no"})
    assert flagged is not None
    assert flagged.meaning == "content_filter"


def test_googles_status_is_its_code() -> None:
    found = read({"message": "no", "code": 400, "status": "INVALID_ARGUMENT"})

    assert found is not None
    assert found.code == "INVALID_ARGUMENT"


def test_secrets_are_removed_before_the_message_is_cut() -> None:
    found = read({"message": "x" * 490 + KEY + "y" * 100, "code": KEY, "type": "sk-abcdefgh12", "param": "p" * 101})

    assert found is not None
    assert found.message == "x" * 490 + "[redacted]"
    assert (found.code, found.type, found.param) == (None, None, None)


@pytest.mark.parametrize("error", [{}, {"message": ""}, {"message": 5}, {"message": " "}])
def test_an_error_without_a_message_is_not_passed_on(error: dict[str, Any]) -> None:
    assert read(error) is None

"""Error responses, model lists, token counts and field names in Google's format."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from llm_gateway.errors import (
    Conflict,
    DeadlineExceeded,
    Forbidden,
    GatewayError,
    InternalError,
    Invalid,
    MethodNotAllowed,
    NotSupported,
    Overloaded,
    PayloadTooLarge,
    ProviderFailed,
    ProviderRefused,
    RateLimited,
    Unauthorized,
    UnknownModel,
)
from llm_gateway.protocols import gemini
from llm_gateway.protocols.contract import Unreadable
from llm_gateway.protocols.descriptor import ListedModel
from llm_gateway.protocols.gemini.field_names import FIELD_NAMES, camel_names
from llm_gateway.protocols.gemini.model_list import write_model, write_models
from llm_gateway.protocols.gemini.token_count import counted_request, write_count
from tests.protocols.gemini.replies import CONTEXT


def told(error: GatewayError) -> dict[str, Any]:
    """Return the error object that a client receives."""
    document = json.loads(gemini.write_error(error, "request-1"))
    assert list(document) == ["error"]
    found: dict[str, Any] = document["error"]
    return found


@pytest.mark.parametrize(
    ("error", "code", "status", "reason"),
    [
        (NotSupported("x", field="n"), 400, "INVALID_ARGUMENT", "NOT_SUPPORTED"),
        (Unauthorized("x"), 401, "UNAUTHENTICATED", "UNAUTHORIZED"),
        (Forbidden("x"), 403, "PERMISSION_DENIED", "FORBIDDEN"),
        (UnknownModel("x"), 404, "NOT_FOUND", "MODEL_NOT_FOUND"),
        (MethodNotAllowed("x", allow=("POST",)), 405, "UNIMPLEMENTED", "METHOD_NOT_ALLOWED"),
        (Conflict("x"), 409, "ALREADY_EXISTS", "CONFLICT"),
        (PayloadTooLarge("x"), 413, "INVALID_ARGUMENT", "PAYLOAD_TOO_LARGE"),
        (Invalid("x"), 400, "INVALID_ARGUMENT", "VALIDATION_ERROR"),
        (RateLimited("x"), 429, "RESOURCE_EXHAUSTED", "RATE_LIMITED"),
        (ProviderRefused("x", status=418), 418, "INVALID_ARGUMENT", "PROVIDER_REFUSED"),
        (InternalError("x"), 500, "INTERNAL", "INTERNAL_ERROR"),
        (ProviderFailed("x"), 502, "UNAVAILABLE", "PROVIDER_ERROR"),
        (Overloaded("x"), 503, "UNAVAILABLE", "OVERLOADED"),
        (DeadlineExceeded("x"), 504, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
    ],
)
def test_errors_have_googles_status_and_the_gateways_reason(
    error: GatewayError, code: int, status: str, reason: str
) -> None:
    found = told(error)

    assert (found["code"], found["status"], found["message"]) == (code, status, "x")
    [info, request, *_] = found["details"]
    assert info == {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "llm-gateway",
        "metadata": {"code": error.code},
    }
    assert request == {"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": "request-1"}


@pytest.mark.parametrize(
    ("error", "field"),
    [
        (Invalid("x", loc=("body", "contents", 0)), "contents.0"),
        (NotSupported("x", field="generationConfig.seed"), "generationConfig.seed"),
    ],
)
def test_the_field_at_fault_is_reported_as_a_violation(error: GatewayError, field: str) -> None:
    assert told(error)["details"][2] == {
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": [{"field": field, "description": "x"}],
    }


@pytest.mark.parametrize(
    ("seconds", "delay"),
    [(1, "1s"), (30.0, "30s"), (0.25, "0.25s"), (0.0, "0.1s"), (1e-5, "0.1s"), (2_592_000.5, "2592000.5s")],
)
def test_the_wait_is_reported_as_retry_info(seconds: float, delay: str) -> None:
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}

    assert told(RateLimited("x", retry_after_s=seconds))["details"][-1] == retry


def test_details_that_do_not_apply_are_omitted() -> None:
    assert len(told(InternalError("x"))["details"]) == len(told(Invalid("x"))["details"]) == 2


def test_models_are_listed_in_googles_format() -> None:
    chat = ["generateContent", "streamGenerateContent", "countTokens"]
    embeddings = ["embedContent", "batchEmbedContents"]
    models = [
        ListedModel("gpt-4o", "openai", 0, context_window=128_000, max_output_tokens=16_384, has_embeddings=True),
        ListedModel("org/model", "other", 0, has_chat=False, has_embeddings=True),
    ]
    documents = [
        {
            "name": "models/gpt-4o",
            "displayName": "gpt-4o",
            "supportedGenerationMethods": chat + embeddings,
            "inputTokenLimit": 128_000,
            "outputTokenLimit": 16_384,
        },
        {"name": "models/org/model", "displayName": "org/model", "supportedGenerationMethods": embeddings},
    ]

    assert json.loads(write_models(models, {})) == {"models": documents}
    assert [json.loads(write_model(model)) for model in models] == documents


def test_the_tokens_of_contents_or_of_a_whole_request_are_counted() -> None:
    contents = [{"parts": [{"text": "x"}]}]
    whole = {"contents": contents, "systemInstruction": {"parts": [{"text": "y"}]}}

    assert counted_request({"contents": contents}) == {"contents": contents}
    assert counted_request({"generateContentRequest": whole}) == whole
    snake = {"contents": contents, "system_instruction": whole["systemInstruction"]}
    assert counted_request({"generate_content_request": snake}) == whole
    assert json.loads(write_count(7)) == {"totalTokens": 7}


@pytest.mark.parametrize(
    "document", [{}, {"contents": [], "generateContentRequest": {}}, {"generateContentRequest": 5}]
)
def test_a_count_without_contents_or_with_both_forms_is_rejected(document: dict[str, Any]) -> None:
    with pytest.raises(Unreadable):
        counted_request(document)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("contents", "contents"),
        ("system_instruction", "systemInstruction"),
        ("systemInstruction", "systemInstruction"),
        ("top_p", "topP"),
        ("_responseJsonSchema", "_responseJsonSchema"),
        ("a_JSON_b", "aJSONB"),
        ("a__b", "aB"),
        ("", ""),
    ],
)
def test_snake_case_names_become_camel_case(given: str, name: str) -> None:
    assert camel_names({given: 1}) == {name: 1}


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("n", "generationConfig.candidateCount"),
        ("reasoning", "generationConfig.thinkingConfig"),
        ("image", "contents"),
        ("logit_bias", "logit_bias"),
    ],
)
def test_canonical_fields_are_reported_with_googles_names(field: str, name: str) -> None:
    assert FIELD_NAMES.get(field, field) == name


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("rate_limited", 429),
        ("request_exceeds_limit", 429),
        ("provider_refused", 400),
        ("validation_error", 400),
        ("not_supported", 400),
        ("no_provider", 503),
        ("deadline_exceeded", 504),
        ("internal_error", 500),
    ],
)
def test_an_error_in_a_stream_has_the_status_of_its_code(code: str, status: int) -> None:
    event = gemini.StreamWriter(CONTEXT).error("It failed.", code)
    document = msgspec.json.decode(event.removeprefix(b"data: ").strip())
    assert (document["error"]["code"], document["error"]["message"]) == (status, "It failed.")

"""Errors about reasoning that a vendor cannot verify are recognised in each vendor's words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.providers.registry import DIALECTS

ANTHROPICS = "messages.1.content.0: Invalid `signature` in `thinking` block"
CORRUPTED = {"error": {"code": 400, "message": "Corrupted thought signature.", "status": "INVALID_ARGUMENT"}}
OPENROUTERS = {
    "message": "Provider returned error",
    "code": 400,
    "metadata": {"raw": msgspec.json.encode(CORRUPTED).decode(), "provider_name": "Google AI Studio"},
}
OPENAIS = {
    "message": "The encrypted content gAAA...DQ== could not be verified.",
    "type": "invalid_request_error",
    "param": None,
    "code": "invalid_encrypted_content",
}


def reason(kind: str, error: Any, status: int = 400) -> str:
    return DIALECTS[kind].classify_error(UpstreamResult(status, msgspec.json.encode({"error": error}))).reason


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("anthropic", {"type": "invalid_request_error", "message": ANTHROPICS}),
        ("anthropic", {"message": "messages.3.content.1: Invalid signature in thinking block"}),
        ("anthropic", {"message": "messages.1.content.0: Invalid `data` in `redacted_thinking` block"}),
        ("gemini", CORRUPTED["error"]),
        ("gemini", {"message": "Unable to submit request because Thought signature is not valid.. Learn more: x"}),
        ("gemini", {"message": "Invalid thought signature.", "status": "INVALID_ARGUMENT"}),
        ("openai", OPENAIS),
        ("openai", OPENROUTERS),
    ],
)  # fmt: skip
def test_an_unverifiable_signature_is_recognised(kind: str, error: Any) -> None:
    assert reason(kind, error) == "signature"


@pytest.mark.parametrize("kind", ["anthropic", "gemini", "openai"])
@pytest.mark.parametrize(
    "error",
    [
        {"message": "max_tokens: Field required", "type": "invalid_request_error"},
        {"message": "The webhook signature is not valid", "metadata": {"raw": 5}},
        {"message": 5, "code": 400},
    ],
)
def test_other_refusals_of_a_request_are_not_taken_for_one(kind: str, error: Any) -> None:
    assert reason(kind, error) == ""

"""Dialect of OpenAI-compatible accounts: URLs, headers and error classification, which most vendors share.

Source: https://platform.openai.com/docs/api-reference/chat. A rule for another vendor's deviation names that vendor.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from llm_gateway.domain.catalog import Target
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.domain.upstream_refusal import FLAGGED, TOO_LONG, UpstreamRefusal, refusal_by_status
from llm_gateway.protocols import openai_embeddings, openai_responses
from llm_gateway.protocols.openai_chat import StreamReader, read_reply, reasoning_details, write_request
from llm_gateway.protocols.openai_chat import pass_through as chat_pass_through
from llm_gateway.protocols.openai_responses import pass_through
from llm_gateway.providers.context_errors import context_limit
from llm_gateway.providers.decoding import error_of, error_text
from llm_gateway.providers.dialect import ProtocolCodec
from llm_gateway.providers.openai_responses_models import requests_for_responses
from llm_gateway.providers.signature_errors import UNVERIFIABLE, is_unverifiable
from llm_gateway.providers.upstream_credentials import StaticKey

CONTENT_FILTERED = ("content_filter", "content_policy_violation", "invalid_prompt")
"""Error codes of a content filter: Azure OpenAI,
https://learn.microsoft.com/azure/ai-foundry/openai/concepts/content-filter; OpenAI's reasoning models,
https://github.com/BeehiveInnovations/pal-mcp-server/issues/178. OpenRouter: see `_is_flagged`. (2026-11-27)"""
USED_UP = (
    # OpenAI: https://help.openai.com/en/articles/6614457-troubleshooting-api-usage-and-spend-limits
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    # Moonshot: https://forum.moonshot.ai/t/429-insufficient-balance/244
    "exceeded_current_quota_error",
)
"""`code` or `type` of a 429 for an account without credit (2026-11-27). Gemini's 429 for a minute's limit speaks of a
quota, too, but has none of these words."""
ACCOUNT_CODES = ("invalid_api_key", "organization_restricted")
"""Codes of a 400 about the account. Groq: https://github.com/NVIDIA-NeMo/Guardrails/issues/563 (2026-11-27)."""
NO_MODEL = ("model_not_found", "model_permission_blocked_org", "model_permission_blocked_project")
"""Codes of a 403 or 404 about the model. OpenAI: https://github.com/Aider-AI/aider/issues/1903; Groq:
https://console.groq.com/docs/model-permissions (2026-11-27)."""
_NO_MODEL = re.compile(
    r"does not have access to model|\bmodels?\b.{0,120}\b(?:not found|does not exist|not exist)", re.IGNORECASE
)
"""vLLM ("The model `x` does not exist."): https://github.com/vllm-project/vllm/issues/3485; Ollama ('model "x" not
found, try pulling it first'): https://github.com/netease-youdao/QAnything/issues/555 (2026-11-27)."""
_CREDIT = re.compile(r"used all available credits|run out of credits|doesn't have any credits")
"""xAI's 403 or 429 for a team without credit: https://github.com/continuedev/continue/issues/10373 (2026-11-27)."""
_TOO_EXPENSIVE = re.compile(r"can only afford [1-9]|^Prompt tokens limit exceeded")
"""OpenRouter's 402 for one request that costs more than the credit left:
https://github.com/Gitlawb/openclaude/issues/1125, https://github.com/anomalyco/opencode/issues/12219.
"can only afford 0" is an account without credit, so it does not match."""
BAD_ARGUMENTS = "Failed to parse tool call arguments as JSON"
"""llama.cpp's 500 for a history with a tool call whose arguments are not valid JSON:
https://github.com/ggml-org/llama.cpp/issues/25510 (2026-11-27)."""
IN_FLIGHT_BUDGET = "openrouter_in_flight_budget"
"""`metadata.limit_source` of OpenRouter's 402 while calls under way are not settled yet, with a Retry-After:
https://openrouter.ai/docs/api_reference/errors-and-debugging, "Retry-After header" (2026-11-27)."""

static_key = StaticKey("authorization", "Bearer ")
codecs = {
    "openai_chat": ProtocolCodec(
        lambda _model, _stream: "/chat/completions",
        read_reply,
        StreamReader,
        write_request,
        without_signatures=reasoning_details.without_signatures,
        with_valid_arguments=chat_pass_through.with_valid_arguments,
    ),
    "openai_responses": ProtocolCodec(
        lambda _model, _stream: "/responses",
        openai_responses.read_reply,
        openai_responses.StreamReader,
        openai_responses.write_request,
        is_default=False,  # few compatible servers implement all of it: docs/decisions/providers.md, D-121
        required_for=requests_for_responses,
        without_signatures=pass_through.without_signatures,
        with_valid_arguments=pass_through.with_valid_arguments,
    ),
    "openai_embeddings": ProtocolCodec(lambda _model, _stream: "/embeddings", openai_embeddings.read_reply),
}


def target(base_url: str) -> Target:
    """Return the URLs of an account's calls, and their headers without the API key."""
    root = base_url.rstrip("/")
    headers = {"content-type": "application/json", "accept": "application/json"}
    return Target(root=root, models_url=f"{root}/models", headers=headers)


def decode_error(body: bytes) -> str:
    """Return the provider's message in an error body, else the start of the body as text."""
    return error_text(body)


def classify_error(refused: UpstreamResult) -> UpstreamRefusal:
    """Classify an error response: by its status, with exceptions for single vendors, each with its source."""
    rule = _RULES.get(refused.status)
    if rule is None:
        return refusal_by_status(refused)
    error = error_of(refused.body)
    return rule(refused, error, str(error.get("message"))) or refusal_by_status(refused)


def _bad_request(refused: UpstreamResult, error: dict[str, Any], message: str) -> UpstreamRefusal | None:
    """Classify a 400, 413, 422 or 500 by its words, None if the status decides."""
    code = error.get("code")
    if code in CONTENT_FILTERED:
        return FLAGGED
    if context_limit(error) is not None:
        return TOO_LONG
    if is_unverifiable(error):
        return UNVERIFIABLE
    if message.startswith(BAD_ARGUMENTS):
        return UpstreamRefusal("request", is_final=True)
    if code == "json_validate_failed" and refused.status == 400:
        # Groq: the model did not produce valid JSON, so another try can succeed:
        # https://console.groq.com/docs/structured-outputs#json-object-mode
        return UpstreamRefusal("temporary")
    if code in ACCOUNT_CODES or message.startswith("Incorrect API key provided"):
        return UpstreamRefusal("account")  # xAI: only the message distinguishes it from other 400s
    if code == "rate_limit_exceeded" and refused.status == 413:
        # Groq: the request is larger than the account's tokens per minute; another account's can be larger:
        # https://github.com/ITSpecialist111/ai_automation_suggester/issues/61
        return UpstreamRefusal("request")
    return None


def _payment(refused: UpstreamResult, error: dict[str, Any], message: str) -> UpstreamRefusal | None:
    metadata = error.get("metadata")
    if isinstance(metadata, dict) and metadata.get("limit_source") == IN_FLIGHT_BUDGET:
        return UpstreamRefusal("temporary", retry_after_s=refused.retry_after_s)
    return UpstreamRefusal("request") if _TOO_EXPENSIVE.search(message) else None


def _forbidden(refused: UpstreamResult, error: dict[str, Any], message: str) -> UpstreamRefusal | None:
    code = error.get("code")
    if code in CONTENT_FILTERED or _is_flagged(error.get("metadata")):
        return FLAGGED
    return UpstreamRefusal("model") if code in NO_MODEL or _NO_MODEL.search(message) else None


def _not_found(refused: UpstreamResult, error: dict[str, Any], message: str) -> UpstreamRefusal | None:
    is_model = error.get("code") in NO_MODEL or _NO_MODEL.search(message)
    return UpstreamRefusal("model") if is_model else None


def _too_many(refused: UpstreamResult, error: dict[str, Any], message: str) -> UpstreamRefusal | None:
    if error.get("code") in USED_UP or error.get("type") in USED_UP or _CREDIT.search(message):
        return UpstreamRefusal("account")
    return None


_RULES: dict[int, Callable[[UpstreamResult, dict[str, Any], str], UpstreamRefusal | None]] = {
    400: _bad_request,
    402: _payment,
    403: _forbidden,
    404: _not_found,
    413: _bad_request,
    422: _bad_request,
    429: _too_many,
    500: _bad_request,  # llama.cpp before 2025-09: https://github.com/ggml-org/llama.cpp/pull/15780
}


def _is_flagged(metadata: object) -> bool:
    """Return whether OpenRouter's moderation rejected the request.

    https://openrouter.ai/docs/api/reference/errors-and-debugging, "Moderation Errors".
    """
    return isinstance(metadata, dict) and ("reasons" in metadata or "flagged_input" in metadata)

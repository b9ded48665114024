"""Dialect of OpenAI-compatible accounts: URLs, headers and error classification, which most vendors share.

Source: https://platform.openai.com/docs/api-reference/chat. A rule for another vendor's deviation names that vendor.
"""

from __future__ import annotations

import re

from llm_gateway.domain.catalog import Target
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.domain.upstream_refusal import UpstreamRefusal, refusal_by_status
from llm_gateway.protocols import openai_embeddings, openai_responses
from llm_gateway.protocols.openai_chat import StreamReader, read_reply, write_request
from llm_gateway.providers.decoding import error_of, error_text
from llm_gateway.providers.dialect import ProtocolCodec
from llm_gateway.providers.openai_responses_models import requests_for_responses
from llm_gateway.providers.upstream_credentials import StaticKey

CONTENT_FILTERED = ("content_filter", "content_policy_violation")
"""Error codes of a content filter: Azure OpenAI,
https://learn.microsoft.com/azure/ai-foundry/openai/concepts/content-filter, and OpenRouter (see `_is_flagged`)."""
_TOO_EXPENSIVE = re.compile(r"can only afford [1-9]|^Prompt tokens limit exceeded")
"""OpenRouter's 402 for one request that costs more than the credit left:
https://github.com/Gitlawb/openclaude/issues/1125, https://github.com/anomalyco/opencode/issues/12219.
"can only afford 0" is an account without credit, so it does not match."""

static_key = StaticKey("authorization", "Bearer ")
codecs = {
    "openai_chat": ProtocolCodec(lambda _model, _stream: "/chat/completions", read_reply, StreamReader, write_request),
    "openai_responses": ProtocolCodec(
        lambda _model, _stream: "/responses",
        openai_responses.read_reply,
        openai_responses.StreamReader,
        openai_responses.write_request,
        is_default=False,  # few compatible servers implement all of it: docs/decisions/providers.md, D-121
        required_for=requests_for_responses,
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
    status = refused.status
    if status not in (400, 402, 403):
        return refusal_by_status(refused)
    error = error_of(refused.body)
    code, message = error.get("code"), str(error.get("message"))
    if code in CONTENT_FILTERED or (status == 403 and _is_flagged(error.get("metadata"))):
        return UpstreamRefusal("request", is_final=True)
    if status == 400 and code == "json_validate_failed":
        # Groq: the model did not produce valid JSON, so another try can succeed:
        # https://console.groq.com/docs/structured-outputs#json-object-mode
        return UpstreamRefusal("temporary")
    if status == 400 and message.startswith("Incorrect API key provided"):
        return UpstreamRefusal("account")  # xAI: only the message distinguishes it from other 400s
    if status == 403 and (code == "model_not_found" or "does not have access to model" in message):
        # OpenAI: the key's project may not use this model: https://github.com/Aider-AI/aider/issues/1903
        return UpstreamRefusal("model")
    if status == 402 and _TOO_EXPENSIVE.search(message):
        return UpstreamRefusal("request")
    return refusal_by_status(refused)


def _is_flagged(metadata: object) -> bool:
    """Return whether OpenRouter's moderation rejected the request.

    https://openrouter.ai/docs/api/reference/errors-and-debugging, "Moderation Errors".
    """
    return isinstance(metadata, dict) and ("reasons" in metadata or "flagged_input" in metadata)

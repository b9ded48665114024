"""OpenAI chat completions, the dialect most vendors speak.

Source: https://platform.openai.com/docs/api-reference/chat. Where others differ the rule names them.
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
from llm_gateway.providers.upstream_credentials import StaticKey

CONTENT_FILTERED = ("content_filter", "content_policy_violation")
"""Azure OpenAI: https://learn.microsoft.com/azure/ai-foundry/openai/concepts/content-filter; OpenRouter, see below."""
_TOO_DEAR = re.compile(r"can only afford [1-9]|^Prompt tokens limit exceeded")
"""OpenRouter's 402 for the price of one request: https://github.com/Gitlawb/openclaude/issues/1125, and
https://github.com/anomalyco/opencode/issues/12219. "can only afford 0" is an account without credit."""

static_key = StaticKey("authorization", "Bearer ")
codecs = {
    "openai_chat": ProtocolCodec(lambda _model, _stream: "/chat/completions", read_reply, StreamReader, write_request),
    "openai_responses": ProtocolCodec(
        lambda _model, _stream: "/responses",
        openai_responses.read_reply,
        openai_responses.StreamReader,
        is_default=False,  # few servers speak it whole: docs/DECISIONS.md
    ),
    "openai_embeddings": ProtocolCodec(lambda _model, _stream: "/embeddings", openai_embeddings.read_reply),
}


def target(base_url: str) -> Target:
    """Return where the calls of an account go, and the headers they carry beside the key."""
    root = base_url.rstrip("/")
    headers = {"content-type": "application/json", "accept": "application/json"}
    return Target(root=root, models_url=f"{root}/models", headers=headers)


def decode_error(body: bytes) -> str:
    """The provider's own message in an error body, or its beginning as text."""
    return error_text(body)


def interpret(refused: UpstreamResult) -> UpstreamRefusal:
    """What a refusal is about, where its status does not say it or says something else.

    Several vendors speak this dialect; each rule names whose it is.
    """
    status = refused.status
    if status not in (400, 402, 403):
        return refusal_by_status(refused)
    error = error_of(refused.body)
    code, message = error.get("code"), str(error.get("message"))
    if code in CONTENT_FILTERED or (status == 403 and _is_flagged(error.get("metadata"))):
        return UpstreamRefusal("request", is_final=True)
    if status == 400 and code == "json_validate_failed":
        # Groq's model wrote no JSON: https://console.groq.com/docs/structured-outputs#json-object-mode
        return UpstreamRefusal("moment")
    if status == 400 and message.startswith("Incorrect API key provided"):
        return UpstreamRefusal("account")  # xAI, told from other 400s by its message only
    if status == 403 and (code == "model_not_found" or "does not have access to model" in message):
        # OpenAI's projects: https://github.com/Aider-AI/aider/issues/1903
        return UpstreamRefusal("model")
    if status == 402 and _TOO_DEAR.search(message):
        return UpstreamRefusal("request")
    return refusal_by_status(refused)


def _is_flagged(metadata: object) -> bool:
    """OpenRouter's moderation: https://openrouter.ai/docs/api/reference/errors-and-debugging, "Moderation Errors"."""
    return isinstance(metadata, dict) and ("reasons" in metadata or "flagged_input" in metadata)

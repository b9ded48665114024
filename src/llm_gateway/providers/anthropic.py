"""Dialect of Anthropic accounts: URLs, headers and error classification for the Messages API.

Sources: https://platform.claude.com/docs/en/api/messages, …/api/errors, …/build-with-claude/handling-stop-reasons and
the pages "What's new in Claude …" of single models.
"""

from __future__ import annotations

import re
from functools import partial

from llm_gateway.domain.catalog import Target
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.domain.upstream_refusal import FLAGGED, TOO_LONG, UpstreamRefusal, refusal_by_status
from llm_gateway.protocols.anthropic_messages import StreamReader, read_reply, write_request
from llm_gateway.protocols.anthropic_messages.pass_through import without_signatures
from llm_gateway.providers.context_errors import context_limit
from llm_gateway.providers.decoding import error_of, error_text
from llm_gateway.providers.dialect import ProtocolCodec
from llm_gateway.providers.signature_errors import UNVERIFIABLE, is_unverifiable
from llm_gateway.providers.upstream_credentials import StaticKey

API_VERSION = "2023-06-01"
"""Sent as `anthropic-version`. The next version, 2026-10-21, rejects `temperature` for every model:
https://platform.claude.com/docs/en/api/versioning."""
_OUT_OF_MONEY = re.compile("Your credit balance is too low|You have reached your specified API usage limits")
"""Error messages of an account without credit, or at the spend limit that its owner set:
https://github.com/anthropics/claude-code/issues/38035 (2026-11-27)."""
_FILTERED = re.compile("blocked by content filtering policy")
"""https://github.com/anthropics/claude-code/issues/58367 (2026-11-27)."""
_MODEL = re.compile(r"\bmodel\b")
"""Part of a 404's message that is about the model ("model: claude-x"), not about the path."""

static_key = StaticKey("x-api-key")
codecs = {
    "anthropic_messages": ProtocolCodec(
        lambda _model, _stream: "/v1/messages",
        read_reply,
        StreamReader,
        write_request,
        partial(StreamReader, wants_json=True),
        without_signatures=without_signatures,
    ),
}


def target(base_url: str) -> Target:
    """Return the URLs of an account's calls, and their headers without the API key.

    `base_url` has no `/v1`, as in Anthropic's SDK.
    """
    root = base_url.rstrip("/")
    headers = {
        "anthropic-version": API_VERSION,
        "content-type": "application/json",
        "accept": "application/json",
    }
    return Target(root=root, models_url=f"{root}/v1/models", headers=headers)


def decode_error(body: bytes) -> str:
    """Return the provider's message in an error body, else the start of the body as text."""
    return error_text(body)


def classify_error(refused: UpstreamResult) -> UpstreamRefusal:
    """Classify an error response: by its status, but a 400 or 404 by its message."""
    # Anthropic documents 402 `billing_error`, but answers 400 `invalid_request_error` when the credit is used up.
    if refused.status not in (400, 404, 413, 429):
        return refusal_by_status(refused)
    error = error_of(refused.body)
    message = str(error.get("message"))
    if refused.status == 404:
        return UpstreamRefusal("model") if _MODEL.search(message) else refusal_by_status(refused)
    if _OUT_OF_MONEY.match(message):
        return UpstreamRefusal("account")
    if refused.status == 400 and _FILTERED.search(message):
        return FLAGGED
    if refused.status == 400 and is_unverifiable(error):
        return UNVERIFIABLE
    if refused.status != 429 and context_limit(error) is not None:
        return TOO_LONG
    return refusal_by_status(refused)

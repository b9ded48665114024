"""Dialect of Anthropic accounts: URLs, headers and error classification for the Messages API.

Sources: https://platform.claude.com/docs/en/api/messages, …/api/errors, …/build-with-claude/handling-stop-reasons and
the pages "What's new in Claude …" of single models.
"""

from __future__ import annotations

from functools import partial

from llm_gateway.domain.catalog import Target
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.domain.upstream_refusal import UpstreamRefusal, refusal_by_status
from llm_gateway.protocols.anthropic_messages import StreamReader, read_reply, write_request
from llm_gateway.providers.decoding import error_text
from llm_gateway.providers.dialect import ProtocolCodec
from llm_gateway.providers.upstream_credentials import StaticKey

API_VERSION = "2023-06-01"
"""Sent as `anthropic-version`. The next version, 2026-10-21, rejects `temperature` for every model:
https://platform.claude.com/docs/en/api/versioning."""
OUT_OF_MONEY = "Your credit balance is too low"
"""Start of the error message for an account without credit."""

static_key = StaticKey("x-api-key")
codecs = {
    "anthropic_messages": ProtocolCodec(
        lambda _model, _stream: "/v1/messages",
        read_reply,
        StreamReader,
        write_request,
        partial(StreamReader, wants_json=True),
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
    """Classify an error response: by its status, but 400 for lack of credit concerns the account."""
    # Anthropic documents 402 `billing_error`, but answers 400 `invalid_request_error` when the credit is used up.
    if refused.status == 400 and error_text(refused.body).startswith(OUT_OF_MONEY):
        return UpstreamRefusal("account")
    return refusal_by_status(refused)

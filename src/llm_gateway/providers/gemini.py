"""Dialect of Google Gemini accounts: URLs, headers and error classification for generateContent and embeddings.

Sources: https://ai.google.dev/api/generate-content, https://ai.google.dev/gemini-api/docs/troubleshooting, and
https://cloud.google.com/apis/design/errors for `ErrorInfo` and `RetryInfo`.
"""

from __future__ import annotations

import math
import re
from typing import Any
from urllib.parse import quote

from llm_gateway.domain.catalog import Target
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.domain.upstream_refusal import TOO_LONG, UpstreamRefusal, refusal_by_status
from llm_gateway.protocols import gemini_embeddings
from llm_gateway.protocols.gemini import StreamReader, read_reply, write_request
from llm_gateway.protocols.gemini.pass_through import without_signatures
from llm_gateway.providers.context_errors import context_limit
from llm_gateway.providers.decoding import error_of, error_text
from llm_gateway.providers.dialect import ProtocolCodec
from llm_gateway.providers.signature_errors import UNVERIFIABLE, is_unverifiable
from llm_gateway.providers.upstream_credentials import StaticKey

static_key = StaticKey("x-goog-api-key")
BAD_KEY = ("API_KEY_INVALID", "API_KEY_EXPIRED")
_MODEL = re.compile(r"\b(?:models|tunedModels)/")
"""Part of a 404's message that is about the model ("models/x is not found for API version v1beta"), not about the path
or a file."""


def target(base_url: str) -> Target:
    """Return the URLs of an account's calls, and their headers without the API key.

    `base_url` has no `/v1beta`, as in Google's SDK.
    """
    root = base_url.rstrip("/")
    headers = {"content-type": "application/json", "accept": "application/json"}
    return Target(root=root, models_url=f"{root}/v1beta/models", headers=headers)


def path_of(model: str) -> str:
    """Return the path of a model, whose name can start with `models/` (the default) or `tunedModels/`."""
    kind, slash, name = model.partition("/")
    if slash and kind in ("models", "tunedModels"):
        return f"/v1beta/{kind}/{quote(name, safe='')}"
    return f"/v1beta/models/{quote(model, safe='')}"


def _call_path(model: str, stream: bool) -> str:
    return f"{path_of(model)}:{'streamGenerateContent?alt=sse' if stream else 'generateContent'}"


codecs = {
    "gemini_content": ProtocolCodec(
        _call_path, read_reply, StreamReader, write_request, without_signatures=without_signatures
    ),
    "gemini_embeddings": ProtocolCodec(
        lambda model, _stream: f"{path_of(model)}:embedContent", gemini_embeddings.read_reply
    ),
    "gemini_batch_embeddings": ProtocolCodec(
        lambda model, _stream: f"{path_of(model)}:batchEmbedContents", gemini_embeddings.read_reply
    ),
}


def decode_error(body: bytes) -> str:
    """Return the provider's message in an error body, else the start of the body as text."""
    return error_text(body)


def classify_error(refused: UpstreamResult) -> UpstreamRefusal:
    """Classify an error response.

    Google reports a bad key as 400 (`API_KEY_INVALID`), a project without billing as 400 (`FAILED_PRECONDITION`:
    https://ai.google.dev/gemini-api/docs/troubleshooting, 2026-11-27), and the wait after a 429 in the body
    (`RetryInfo`).
    """
    refusal = refusal_by_status(refused)
    if refused.status not in (400, 404, 429):
        return refusal
    error = error_of(refused.body)
    if refused.status == 404:
        return UpstreamRefusal("model") if _MODEL.search(str(error.get("message"))) else refusal
    given = error.get("details")
    details = [detail for detail in given if isinstance(detail, dict)] if isinstance(given, list) else []
    if refused.status == 400:
        if error.get("status") == "FAILED_PRECONDITION" or any(detail.get("reason") in BAD_KEY for detail in details):
            return UpstreamRefusal("account")
        if is_unverifiable(error):
            return UNVERIFIABLE
        return TOO_LONG if context_limit(error) is not None else refusal
    waits = [wait for detail in details if (wait := _seconds(detail.get("retryDelay"))) is not None]
    if refused.retry_after_s is not None or not waits:
        return refusal
    return UpstreamRefusal("temporary", retry_after_s=max(waits))


def _seconds(duration: Any) -> float | None:
    """Parse a `google.protobuf.Duration` in JSON ("37.8s") into seconds, None if it is not one."""
    if not isinstance(duration, str) or not duration.endswith("s") or not duration[:-1].replace(".", "", 1).isdecimal():
        return None
    seconds = float(duration[:-1])
    return seconds if math.isfinite(seconds) else None

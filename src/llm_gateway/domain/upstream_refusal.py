"""Scope of a provider's error response (request, model, account, …), and its default by HTTP status."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from llm_gateway.domain.upstream_call import UpstreamResult

Subject: TypeAlias = Literal["request", "operation", "model", "account", "temporary"]
Reason: TypeAlias = Literal["", "context_length", "content_filter", "signature"]


class UpstreamRefusal(msgspec.Struct, frozen=True, gc=False):
    """The class of a provider's error response.

    `about` is the scope of the error: `request`, this request only; `operation`, a path or feature that the provider
    does not have; `model`, all calls of this model (unknown there, or no access); `account`, all calls of the account
    (bad key, no credit); `temporary`, calls at this time (overload, failure, rate limit).
    `is_final`: every candidate would reject this request, so the client gets the error. `retry_after_s` is the wait
    that the provider requests, None if it requests none. `reason` says why a request was rejected: it exceeds the
    model's context window, which another model's may hold, a content filter flagged it, or the provider cannot verify
    the signature of reasoning in it.
    """

    about: Subject
    is_final: bool = False
    retry_after_s: float | None = None
    reason: Reason = ""


TOO_LONG = UpstreamRefusal("request", reason="context_length")
FLAGGED = UpstreamRefusal("request", is_final=True, reason="content_filter")

_BY_STATUS: dict[int, tuple[Subject, bool]] = {
    400: ("request", True),
    401: ("account", False),
    402: ("account", False),
    403: ("account", False),
    404: ("operation", False),  # a path as well as a model: the dialects look for the model in the message
    413: ("request", True),
    422: ("request", True),
    501: ("operation", False),  # for example embeddings
}


def refusal_by_status(refused: UpstreamResult) -> UpstreamRefusal:
    """Classify an error response by its status alone (RFC 9110, section 15). Vendors' own rules are in `providers/`."""
    about, is_final = _BY_STATUS.get(refused.status, ("temporary", False))
    return UpstreamRefusal(about, is_final, refused.retry_after_s)

"""Scope of a provider's error response (request, model, account, temporary), and its default by HTTP status."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from llm_gateway.domain.upstream_call import UpstreamResult

Subject: TypeAlias = Literal["request", "model", "account", "temporary"]


class UpstreamRefusal(msgspec.Struct, frozen=True, gc=False):
    """The class of a provider's error response.

    `about` is the scope of the error: `request`, this request only; `model`, all calls of this model; `account`, all
    calls of the account (bad key, no credit); `temporary`, calls at this time (overload, failure, rate limit).
    `is_final`: every candidate would reject this request, so the client gets the error. `retry_after_s` is the wait
    that the provider requests, None if it requests none.
    """

    about: Subject
    is_final: bool = False
    retry_after_s: float | None = None


_BY_STATUS: dict[int, tuple[Subject, bool]] = {
    400: ("request", True),
    401: ("account", False),
    402: ("account", False),
    403: ("account", False),
    404: ("model", False),
    413: ("request", True),
    422: ("request", True),
    501: ("model", False),  # the model does not support the operation (for example embeddings)
}


def refusal_by_status(refused: UpstreamResult) -> UpstreamRefusal:
    """Classify an error response by its status alone (RFC 9110, section 15). Vendors' own rules are in `providers/`."""
    about, is_final = _BY_STATUS.get(refused.status, ("temporary", False))
    return UpstreamRefusal(about, is_final, refused.retry_after_s)

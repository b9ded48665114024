"""Interpret a provider's error response: is it about the request, the model, the account, or the moment?"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from llm_gateway.domain.upstream_call import UpstreamResult

Subject: TypeAlias = Literal["request", "model", "account", "moment"]


class UpstreamRefusal(msgspec.Struct, frozen=True, gc=False):
    """The meaning of a provider's error response.

    `about` says who is affected: nobody but this request; calls of this model; the whole account (its key, its credit);
    or everybody for a moment (overload, failure, rate limit). `is_final`: every candidate would refuse this request, so
    the client is told. `retry_after_s` is the wait that the provider asked for, None if it asked for none.
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
    501: ("model", False),  # it cannot do this one thing (embeddings, say)
}


def refusal_by_status(refused: UpstreamResult) -> UpstreamRefusal:
    """Interpret an error response by its status alone (RFC 9110, section 15). Vendors' rules: `providers/`."""
    about, is_final = _BY_STATUS.get(refused.status, ("moment", False))
    return UpstreamRefusal(about, is_final, refused.retry_after_s)

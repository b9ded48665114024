"""What an upstream's error response is about: the request, the model, the account, or the moment."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from llm_gateway.domain.plan import Exchange

Subject: TypeAlias = Literal["request", "model", "account", "moment"]


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """An error response, understood.

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


def by_status(refused: Exchange) -> Refusal:
    """What the status alone says (RFC 9110, section 15); vendors' own meanings are in `providers/`."""
    about, is_final = _BY_STATUS.get(refused.status, ("moment", False))
    return Refusal(about, is_final, refused.retry_after_s)

"""A provider's reply in canonical form, and the answer that a client gets with it."""

from __future__ import annotations

import msgspec

from llm_gateway.domain.conversation import Completion
from llm_gateway.domain.usage import Usage


class Reply(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What a provider answered. `upstream_model` is the name it reported, `usage_estimated` that it counted nothing.

    A client is answered with a `body`, the provider's own document in the client's protocol, with a `completion`, or,
    if it wants text, with `content`.
    `dropped` names the hints that the provider could not be told. `may_be_kept`: not where it holds what only its own
    protocol knows, which can be handed on as it came, but not be told again.
    """

    content: str
    usage: Usage
    finish_reason: str = "stop"
    upstream_model: str | None = None
    upstream_request_id: str | None = None
    usage_estimated: bool = False
    completion: Completion | None = None
    body: bytes = b""
    dropped: tuple[str, ...] = ()
    may_be_kept: bool = True


class Answer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the caller gets: the reply, who gave it and why, and what it cost (integer nano-dollars).

    `route` is as `Plan.route_to` returns it.
    """

    reply: Reply
    provider: str
    model: str
    cost_nanos: int
    cost_status: str
    cached: bool = False
    route: bytes = b"priority"

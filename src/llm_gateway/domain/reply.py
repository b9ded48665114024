"""Reply of a provider, and the answer for the client: reply, provider, model and cost."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from llm_gateway.domain.conversation import Completion
from llm_gateway.domain.rate_limits import WindowState
from llm_gateway.domain.usage import Usage
from llm_gateway.json_outline import HeldTexts


class Reply(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A complete reply of a provider.

    One of three fields becomes the client's response: `body`, the provider's own document, if both speak the same
    protocol; `completion`, if the reply is translated; `content`, for clients that expect plain text.

    `upstream_model` is the model name that the provider reported. `usage_estimated`: `usage` is not the provider's
    own count. `dropped` names the request fields that the provider's protocol could not express. `is_cacheable` is
    False if the reply has parts that only its own protocol can express: it cannot be cached and translated later.
    `service_tier` and `units` are as in `AttemptRecord`. `has_hidden_reasoning`: the reply shows that the model
    reasoned, but not the reasoning itself. `held`: the rests of the long strings of `completion` or `content`
    (`json_outline`), None if none was cut.
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
    is_cacheable: bool = True
    service_tier: str | None = None
    units: dict[str, int] | None = None
    has_hidden_reasoning: bool = False
    held: HeldTexts | None = None


class Answer(msgspec.Struct, kw_only=True, gc=False):
    """The answer for one client: the reply, the provider and model behind it, and its cost (integer nano-dollars).

    `route` says why this provider answered, as `Plan.route_to` returns it. `queued_ms` is the time that the request
    waited for a rate limit, `window` what is left of the provider's limits, and `budget` the headers that tell what is
    left of the budget.
    """

    reply: Reply
    provider: str
    model: str
    cost_nanos: int
    cost_status: str
    route: bytes
    cached: bool = False
    queued_ms: int = 0
    window: WindowState | None = None
    budget: Sequence[tuple[bytes, bytes]] = ()

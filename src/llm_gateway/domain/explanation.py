"""Explanation of a request's route, as POST /api/v1/routing/explain answers it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

EXPLAIN_PATH = "/api/v1/routing/explain"
ReasonCode: TypeAlias = Literal[
    "context_window",
    "unsupported",
    "rate_limited",
    "exceeds_limit",
    "breaker_open",
    "account_paused",
    "model_paused",
    "unpriced",
    "unbounded",
]

Verdict: TypeAlias = Literal["serves", "available", "passed_over"]


class ExplainBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A request to explain, and who would send it. Nothing is sent to a provider."""

    body: Annotated[dict[str, Any], Meta(description="the body of the request to explain")]
    path: Annotated[str, Meta(description="the path that it would be posted to", max_length=1000)] = "/api/v1/generate"
    key: Annotated[str, Meta(description="name of the service key; yours without it", max_length=200)] | None = None
    user_id: Annotated[str, Meta(description="the customer, as x-user-id names it", max_length=200)] | None = None
    service: Annotated[str, Meta(description="the service, as x-service-name names it", max_length=200)] | None = None
    session: Annotated[str, Meta(description="the session, as x-session-id names it", max_length=200)] | None = None


class Reason(msgspec.Struct, frozen=True, omit_defaults=True):
    """A reason to pass a candidate over now. `retry_after_s`: seconds until that may have changed."""

    code: ReasonCode
    retry_after_s: float | None = None
    detail: str | None = None


class ExplainedCandidate(msgspec.Struct, frozen=True):
    """A provider and model in the order in which they would be tried; `rank` counts from 1.

    `serves`: it would be called first. `available`: it would be called if those before it failed.
    """

    rank: int
    provider: str
    model: str
    verdict: Verdict
    reasons: tuple[Reason, ...] = ()


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The route that a request would take at this moment.

    `route` says why the first candidates come first, as the header x-gateway-route does. `session`: its requests keep
    to one of equal providers. `cache`: whether a cached answer would be served instead of a call. `budgets`: names of
    those that it would count in, whether they have room or not.
    """

    route: Literal["priority", "only", "model", "override"]
    strategy: Literal["priority"] = "priority"
    session: str | None
    cache: Literal["hit", "miss", "bypass"]
    candidates: tuple[ExplainedCandidate, ...]
    budgets: tuple[str, ...] = ()

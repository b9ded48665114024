"""What routing decides (the plan), one upstream call and what it brought, and what a request was served with."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.messages import Reply

Fault: TypeAlias = Literal["not_sent", "timeout", "broken"]
"""Why there is no response: provably never sent; too late; or cut after sending, so possibly billed."""


Reason: TypeAlias = Literal["priority", "only", "model", "override"]
"""Why a plan's first tier comes first: the providers' priorities, the only provider there is, the model that the client
named, or an override of the customer's."""
ROUTES: dict[Reason, tuple[bytes, bytes]] = {
    reason: (reason.encode(), f"{reason}; fallback".encode()) for reason in ("priority", "only", "model", "override")
}


class Plan(msgspec.Struct, frozen=True, gc=False):
    """Tiers of candidates, to be tried in order; within a tier the least busy comes first.

    `override_id` is set when a customer's override put the first candidate there.
    """

    tiers: tuple[tuple[Candidate, ...], ...]
    override_id: str | None = None
    reason: Reason = "priority"

    def route_to(self, provider: str, tried_first: str | None = None) -> bytes:
        """Return why this provider answered, as the header x-gateway-route tells it.

        `fallback` stands behind the reason where the provider is not one of the first tier, or another one was
        `tried_first`.
        """
        is_first = tried_first in (None, provider) and any(c.provider.name == provider for c in self.tiers[0])
        return ROUTES[self.reason][not is_first]

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All candidates in the plan's order."""
        if len(self.tiers) == 1:
            return self.tiers[0]
        return tuple(candidate for tier in self.tiers for candidate in tier)


class Call(msgspec.Struct, frozen=True, gc=False):
    """One upstream call as it is sent: `path` is appended to the target's root (percent-encoded already).

    A path may hold the model's name but nothing else of a request: the transport remembers every path of a provider.
    `is_native`: the body is the client's own document, in the protocol that the provider speaks, too. `fields` are
    header lines of this call, each with its line end. `dropped` names the hints that the provider cannot be told.
    """

    path: str
    body: bytes
    is_native: bool = False
    fields: bytes = b""
    dropped: tuple[str, ...] = ()


class Exchange(msgspec.Struct, frozen=True, gc=False):
    """What came back from one upstream call: a response (`status`, `body`), or a `fault` and its `message`.

    `retry_after_s` is the response's Retry-After in seconds. `is_ours`: the fault is this machine's (no more files),
    and says nothing about the provider.
    """

    status: int = 0
    body: bytes = b""
    retry_after_s: float | None = None
    fault: Fault | None = None
    message: str = ""
    is_ours: bool = False


class Served(msgspec.Struct, frozen=True, gc=False):
    """A complete success: the reply, the names of who gave it, and what that attempt cost (nano-dollars).

    `cache_part` is the candidate's, under which the reply is kept.
    """

    reply: Reply
    provider: str
    model: str
    cost_nanos: int
    cache_part: bytes

"""Routing plan of one request: the providers and models to try, in order."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from llm_gateway.domain.catalog import Candidate

Reason: TypeAlias = Literal["priority", "only", "model", "override"]
"""Why a plan's first tier comes first: the providers' priorities, the only provider there is, the model that the client
named, or an override of the customer's."""
ROUTES: dict[Reason, tuple[bytes, bytes]] = {
    reason: (reason.encode(), f"{reason}; fallback".encode()) for reason in ("priority", "only", "model", "override")
}


class Plan(msgspec.Struct, frozen=True, gc=False):
    """Tiers of candidates, tried in order; within a tier the least busy candidate is tried first.

    `override_id` is the override that chose the first candidate, None if no override applied.
    """

    tiers: tuple[tuple[Candidate, ...], ...]
    override_id: str | None = None
    reason: Reason = "priority"

    def route_to(self, provider: str, tried_first: str | None = None) -> bytes:
        """Return why this provider answered, as the header x-gateway-route tells it.

        `fallback` stands behind the reason where the provider is not one of the first tier, or another one was
        `tried_first`.
        """
        without_fallback, with_fallback = ROUTES[self.reason]
        if tried_first is None or tried_first == provider:
            for candidate in self.tiers[0]:  # `any` takes five times as long, and every answer comes by here
                if candidate.provider.name == provider:
                    return without_fallback
        return with_fallback

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All candidates, in the order of the tiers."""
        if len(self.tiers) == 1:
            return self.tiers[0]
        return tuple(candidate for tier in self.tiers for candidate in tier)

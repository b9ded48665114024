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
        is_first = tried_first in (None, provider) and any(c.provider.name == provider for c in self.tiers[0])
        return ROUTES[self.reason][not is_first]

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All candidates, in the order of the tiers."""
        if len(self.tiers) == 1:
            return self.tiers[0]
        return tuple(candidate for tier in self.tiers for candidate in tier)

"""The plan of a request: which providers and models are tried, in what order."""

from __future__ import annotations

import msgspec

from llm_gateway.domain.catalog import Candidate


class Plan(msgspec.Struct, frozen=True, gc=False):
    """Tiers of candidates, to be tried in order; within a tier the least busy comes first.

    `override_id` is set when a customer's override put the first candidate there.
    """

    tiers: tuple[tuple[Candidate, ...], ...]
    override_id: str | None = None

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All candidates in the plan's order."""
        if len(self.tiers) == 1:
            return self.tiers[0]
        return tuple(candidate for tier in self.tiers for candidate in tier)

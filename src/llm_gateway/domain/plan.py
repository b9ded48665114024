"""Routing plan of one request: the providers and models to try, in order."""

from __future__ import annotations

import msgspec

from llm_gateway.domain.catalog import Candidate


class Plan(msgspec.Struct, frozen=True, gc=False):
    """Tiers of candidates, tried in order; within a tier the least busy candidate is tried first.

    `override_id` is the override that chose the first candidate, None if no override applied.
    """

    tiers: tuple[tuple[Candidate, ...], ...]
    override_id: str | None = None

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All candidates, in the order of the tiers."""
        if len(self.tiers) == 1:
            return self.tiers[0]
        return tuple(candidate for tier in self.tiers for candidate in tier)

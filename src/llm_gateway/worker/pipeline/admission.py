"""Rate limits per provider: reserve before the call, settle after it.

A call that was provably never sent gives everything back; a provider's error gives its tokens back; a success is
corrected to what it used; a timeout or a cut keeps the whole reservation, because nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterable

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.request import Request
from llm_gateway.domain.usage import SentAttempt
from llm_gateway.limiter.base import Decision, Limiter, Reservation


class Admission:
    """Admits attempts against their provider's limits."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    async def admit(self, request: Request, candidate: Candidate) -> Decision:
        """Take one request and the tokens the call may use at most, or say when they may fit."""
        provider = candidate.provider
        tokens = request.estimated_input_tokens() + request.max_tokens
        return await self._limiter.take(provider.id, provider.rate_limit_rpm, provider.rate_limit_tpm, tokens)

    def never_sent(self, reservation: Reservation) -> int:
        """Everything back. Returns the tokens that stay counted."""
        self._limiter.settle(reservation, tokens=0, sent=False)
        return 0

    def used(self, reservation: Reservation, tokens: int) -> int:
        """The call used `tokens` (0 for a provider's error). Returns the tokens that stay counted."""
        self._limiter.settle(reservation, tokens=tokens)
        return tokens

    def unknown(self, reservation: Reservation) -> int:
        """The reservation stays. Returns the tokens that stay counted."""
        return reservation.tokens

    def refill(self, attempts: Iterable[SentAttempt], now_ms: int) -> None:
        """Count what an earlier run sent."""
        for attempt in attempts:
            age_s = max(0, now_ms - attempt.started_ms) / 1000
            self._limiter.refill(attempt.provider_id, age_s, attempt.limit_tokens)

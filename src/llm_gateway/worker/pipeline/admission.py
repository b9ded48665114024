"""Rate limits per provider: reserve a request and its tokens before a call, correct the reservation after it.

What becomes of the reservation:

    never sent               the request and its tokens are released
    provider's error         the tokens are released, the request stays counted
    success                  the reservation is corrected to the tokens used
    time-out, broken stream  the whole reservation stays counted, since the provider may have used it
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable

from llm_gateway.domain.catalog import Candidate, Provider
from llm_gateway.domain.rate_limits import ReportedLimits, WindowState
from llm_gateway.domain.request import Request
from llm_gateway.domain.usage import SentAttempt
from llm_gateway.limiter.base import Decision, Limiter, Reservation


def most_tokens(request: Request) -> int:
    """Return the most tokens that a call for the request can use, which are reserved for it."""
    return request.estimated_input_tokens() + request.max_tokens


class Admission:
    """The admission of attempts to their provider's rate limits, by a `Limiter`."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    def admit(self, request: Request, candidate: Candidate) -> Awaitable[Decision]:
        """Reserve one request and the most tokens that the call can use, or return when they may fit."""
        provider = candidate.provider
        tokens = most_tokens(request)
        return self._limiter.take(
            provider.id, provider.rate_limit_rpm, provider.rate_limit_tpm, tokens, candidate.model
        )

    def is_too_large(self, request: Request, candidate: Candidate) -> bool:
        """Return whether the request can never fit into the provider's limit of tokens."""
        return most_tokens(request) > candidate.provider.rate_limit_tpm

    def next_free(self, request: Request, candidate: Candidate) -> float:
        """Return the seconds until the request could fit into the provider's limits; 0 if it does now."""
        provider = candidate.provider
        return self._limiter.next_free(
            provider.id, provider.rate_limit_rpm, provider.rate_limit_tpm, most_tokens(request), candidate.model
        )

    def reported(self, reservation: Reservation, limits: ReportedLimits) -> None:
        """Lower the provider's window to the limits that it reported with the response to this call."""
        self._limiter.cap(reservation, limits)

    def state(self, provider: Provider, model: str) -> WindowState:
        """Return what is left of the provider's limits, for clients."""
        return self._limiter.state(provider.id, provider.rate_limit_rpm, provider.rate_limit_tpm, model)

    def never_sent(self, reservation: Reservation) -> int:
        """Release the reservation of a call that was not sent. Returns the tokens that stay counted: 0."""
        self._limiter.settle(reservation, tokens=0, sent=False)
        return 0

    def used(self, reservation: Reservation, tokens: int) -> int:
        """Correct the reservation to `tokens`; 0 for a provider's error. Returns the tokens that stay counted."""
        self._limiter.settle(reservation, tokens)
        return tokens

    def unknown(self, reservation: Reservation) -> int:
        """Count the whole reservation as used, since its use is unknown. Returns the tokens that stay counted."""
        self._limiter.settle(reservation, tokens=reservation.tokens)
        return reservation.tokens

    def refill(self, attempts: Iterable[SentAttempt], now_ms: int) -> None:
        """Count the attempts of an earlier run. `now_ms` is the time of day, in milliseconds since 1970."""
        for attempt in attempts:
            age_s = max(0, now_ms - attempt.started_ms) / 1000
            self._limiter.refill(attempt.provider_id, age_s, attempt.limit_tokens)

"""State of one request while failover walks its plan: attempts made, candidates skipped, the error to return."""

from __future__ import annotations

import msgspec

from llm_gateway.domain.request import Request
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import (
    GatewayError,
    NotSupported,
    ProviderFailed,
    ProviderRefused,
    ProvidersUnavailable,
    RateLimited,
    RequestExceedsLimit,
)
from llm_gateway.protocols.contract import Unsupported
from llm_gateway.suggestions import if_meant


class Failure(msgspec.Struct, frozen=True):
    """How an attempt failed, as far as the next decision needs it.

    `limited`: every failure so far was a 429. `final`: the client is told, no other candidate is tried.
    """

    message: str
    sent: bool = True
    final: bool = False
    limited: bool = False
    retry_on_same: bool = True
    retry_after_s: float = 0.0
    status: int = 0


class RoutingState:
    """Attempts made and candidates skipped for one request, and the error they add up to."""

    __slots__ = ("failure", "limited_for", "out_for", "record", "request", "sent", "unsupported")

    def __init__(self, request: Request, record: UsageRecord) -> None:
        self.request = request
        self.record = record
        self.sent = 0
        self.failure: Failure | None = None
        self.limited_for: float | None = None
        self.out_for: float | None = None
        self.unsupported: tuple[str, Unsupported] | None = None

    def note_skipped(self, seconds: float, *, limited: bool) -> None:
        """Note that a candidate is at its limit, or spared (open breaker, resting account), for `seconds` more."""
        if limited:
            self.limited_for = seconds if self.limited_for is None else min(self.limited_for, seconds)
        else:
            self.out_for = seconds if self.out_for is None else min(self.out_for, seconds)

    def forget_waits(self) -> None:
        """Forget the waits of the lone candidate: it is tried again, and may name another."""
        self.limited_for = self.out_for = None

    def note_unsupported(self, provider: str, error: Unsupported) -> None:
        """Note that a candidate's protocol cannot express a field of the request."""
        if self.unsupported is None:
            self.unsupported = provider, error

    def note_failure(self, failure: Failure) -> None:
        """Note a failed attempt. One failure that is no 429 decides that the request did not end at a limit."""
        self.sent += failure.sent
        if self.failure is not None and not self.failure.limited:
            failure = msgspec.structs.replace(failure, limited=False)
        self.failure = failure

    def error(self) -> GatewayError:
        """What the caller is told once nothing is left to try."""
        waits = [s for s in (self.limited_for, self.out_for) if s is not None]
        if self.failure is not None and not self.failure.limited:
            if self.failure.final and not self.request.client_request.is_canonical:
                return ProviderRefused(self.failure.message, status=self.failure.status)
            return ProviderFailed(self.failure.message, retryable=not self.failure.final)
        if self.limited_for is not None:
            return RateLimited("Every provider that could serve this is at its rate limit.", retry_after_s=min(waits))
        if self.out_for is not None:
            return ProvidersUnavailable(
                "Every provider that could serve this failed lately and is being spared.", retry_after_s=self.out_for
            )
        if self.unsupported is not None:
            provider, error = self.unsupported
            near = if_meant(error.field.rpartition(".")[2], error.known)
            detail = f"{provider} cannot be asked for this: {error.field}: {error.why}.{near}"
            return NotSupported(detail, field=error.field)
        return RequestExceedsLimit(
            "Prompt and max_tokens together are larger than any provider's whole limit per minute: "
            "lower max_tokens, or raise rate_limit_tpm."
        )

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
    """A failed attempt: the facts that decide what is tried next, and which error the client gets.

    Attributes:
        message: with secrets removed.
        sent: the request was sent, so it counts towards the limit of attempts.
        final: return this error to the client; do not try another candidate.
        limited: this failure, and every one before it, was a 429.
        retry_on_same: the same provider may answer a second try.
        retry_after_s: from the Retry-After header, in seconds.
        status: of the provider's response; 0 without one.
        cause: what happened, in one word for usage records; empty for the status.
    """

    message: str
    sent: bool = True
    final: bool = False
    limited: bool = False
    retry_on_same: bool = True
    retry_after_s: float = 0.0
    status: int = 0
    cause: str = ""


class RoutingState:
    """Attempts made and candidates skipped for one request, and the error that follows from them.

    `limited_for` and `out_for` are the shortest waits, in seconds, of the candidates that are at a rate limit and of
    those that are unavailable; None if there is no such candidate. `passed` says why the candidate before was not the
    one to answer, None if there was none before; `is_retry`: the same candidate is tried again.
    """

    __slots__ = ("failure", "is_retry", "limited_for", "out_for", "passed", "record", "request", "sent", "unsupported")

    def __init__(self, request: Request, record: UsageRecord) -> None:
        self.request = request
        self.record = record
        self.sent = 0
        self.failure: Failure | None = None
        self.limited_for: float | None = None
        self.out_for: float | None = None
        self.unsupported: tuple[str, Unsupported] | None = None
        self.passed: str | None = None
        self.is_retry = False

    def why(self) -> str | None:
        """Return why the next attempt is made, as its record tells it (`AttemptRecord.why`)."""
        if self.passed is None:
            return None
        return f"retry:{self.passed}" if self.is_retry else f"failover:{self.passed}"

    def note_skipped(self, seconds: float, *, limited: bool) -> None:
        """Note a candidate that must not be called for `seconds`.

        `limited`: it is at a rate limit; otherwise its breaker is open or its account paused.
        """
        self.passed = "limit" if limited else "unavailable"
        if limited:
            self.limited_for = seconds if self.limited_for is None else min(self.limited_for, seconds)
        else:
            self.out_for = seconds if self.out_for is None else min(self.out_for, seconds)

    def forget_waits(self) -> None:
        """Forget the waits of a lone candidate before it is retried, since the retry may bring a new one."""
        self.limited_for = self.out_for = None

    def note_too_small(self) -> None:
        """Note a candidate whose token limit the request exceeds."""
        self.passed = "exceeds_limit"

    def note_unsupported(self, provider: str, error: Unsupported) -> None:
        """Note that a candidate's protocol cannot express a field of the request."""
        self.passed = "unsupported"
        if self.unsupported is None:
            self.unsupported = provider, error

    def note_failure(self, failure: Failure) -> None:
        """Note a failed attempt. After one failure other than a 429, the client's error is not a 429 either."""
        self.sent += failure.sent
        self.passed = failure.cause or str(failure.status)
        if self.failure is not None and not self.failure.limited:
            failure = msgspec.structs.replace(failure, limited=False)
        self.failure = failure

    def error(self) -> GatewayError:
        """Return the error for the client, once no candidate is left to try."""
        waits = [s for s in (self.limited_for, self.out_for) if s is not None]
        if self.failure is not None and not self.failure.limited:
            if self.failure.final and not self.request.client_request.is_canonical:
                return ProviderRefused(self.failure.message, status=self.failure.status)
            return ProviderFailed(self.failure.message, retryable=not self.failure.final)
        if self.limited_for is not None:
            return RateLimited(
                "Every provider that could serve this request is at its rate limit.", retry_after_s=min(waits)
            )
        if self.out_for is not None:
            return ProvidersUnavailable(
                "Every provider that could serve this request failed recently and is paused.",
                retry_after_s=self.out_for,
            )
        if self.unsupported is not None:
            provider, error = self.unsupported
            near = if_meant(error.field.rpartition(".")[2], error.known)
            detail = f"Provider {provider} cannot serve this request: {error.field}: {error.why}.{near}"
            return NotSupported(detail, field=error.field)
        return RequestExceedsLimit(
            "Prompt and max_tokens together exceed every provider's token limit per minute: "
            "lower max_tokens, or raise rate_limit_tpm."
        )

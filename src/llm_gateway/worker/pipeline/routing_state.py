"""State of one request while failover walks its plan: attempts made, candidates skipped, the error to return."""

from __future__ import annotations

import math

import msgspec

from llm_gateway.domain.catalog import Candidate
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

AT_LIMIT = "Every provider that could serve this request is at its rate limit."


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

    Attributes:
        limited_for, out_for: the shortest waits, in seconds, of the candidates that are at a rate limit and of those
            that are unavailable; None if there is no such candidate.
        limited: the candidates at a rate limit; `limited_by` is the one whose wait is the shortest.
        answered_429: those that answered this request with 429.
        attempts: the attempts made; `sent` counts those that were sent and not answered 429, `retries` the pauses
            before another attempt at a lone candidate.
        passed: why the candidate before was not the one to answer; None if there was none before.
        is_retry: the same candidate is tried again.
        has_paid: the next retry is in the budget of retries already.
        queued_s: the time spent in waiting lines, in seconds.
    """

    __slots__ = (
        "answered_429", "attempts", "failure", "has_paid", "is_retry", "limited", "limited_by", "limited_for",
        "out_for", "passed", "queued_s", "record", "request", "retries", "sent", "unsupported",
    )  # fmt: skip

    def __init__(self, request: Request, record: UsageRecord) -> None:
        self.request = request
        self.record = record
        self.sent = self.attempts = self.retries = 0
        self.queued_s = 0.0
        self.has_paid = False
        self.limited: list[Candidate] = []
        self.answered_429: list[Candidate] = []
        self.limited_by: Candidate | None = None
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

    def note_limited(self, candidate: Candidate, seconds: float | None = None) -> None:
        """Note a candidate that is at a rate limit, for `seconds` if that is known."""
        self.passed = "limit"
        if candidate not in self.limited:
            self.limited.append(candidate)
        if seconds is not None and (self.limited_for is None or seconds < self.limited_for):
            self.limited_for, self.limited_by = seconds, candidate

    def note_unavailable(self, seconds: float) -> None:
        """Note a candidate whose breaker is open, or whose account is paused, for `seconds`."""
        self.passed = "unavailable"
        self.out_for = seconds if self.out_for is None else min(self.out_for, seconds)

    def forget_limits(self) -> None:
        """Forget which candidates are at a rate limit, and for how long, before that is found out again."""
        self.limited_for = self.limited_by = None
        self.limited = []

    def forget_waits(self) -> None:
        """Forget all waits before a lone candidate is tried again, since that may bring new ones."""
        self.forget_limits()
        self.out_for = None

    @property
    def queued_ms(self) -> int:
        """The milliseconds spent in waiting lines."""
        return math.ceil(self.queued_s * 1000) if self.queued_s else 0

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
        self.passed = failure.cause or str(failure.status)
        self.sent += failure.sent and not failure.limited
        self.attempts += 1
        self.has_paid = False
        if self.failure is not None and not self.failure.limited:
            failure = msgspec.structs.replace(failure, limited=False)
        self.failure = failure

    def _limit_named(self) -> str:
        """Return a sentence about the provider that is free first: its name and its limits."""
        if self.limited_by is None:
            return ""
        provider = self.limited_by.provider
        if self.limited_by in self.answered_429:
            return f" {provider.name} answered 429."
        return (
            f" {provider.name} takes {provider.rate_limit_rpm} request{'s' * (provider.rate_limit_rpm > 1)} and "
            f"{provider.rate_limit_tpm} tokens a minute."
        )

    def error(self) -> GatewayError:
        """Return the error for the client, once no candidate is left to try."""
        waits = [s for s in (self.limited_for, self.out_for) if s is not None]
        if self.failure is not None and not self.failure.limited:
            if self.failure.final and not self.request.client_request.is_canonical:
                return ProviderRefused(self.failure.message, status=self.failure.status)
            return ProviderFailed(self.failure.message, retryable=not self.failure.final)
        if self.limited_for is not None:
            return RateLimited(f"{AT_LIMIT}{self._limit_named()}", retry_after_s=min(waits))
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

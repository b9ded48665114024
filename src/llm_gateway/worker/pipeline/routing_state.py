"""State of one request while failover walks its plan: attempts made, candidates skipped, the error to return."""

from __future__ import annotations

import msgspec

from llm_gateway.domain.request import Request
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import (
    GatewayError,
    NotSupported,
    ProviderAccountRefused,
    ProviderFailed,
    ProviderRefused,
    ProvidersUnavailable,
    RateLimited,
    ReportedError,
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
        limited: this failure was a 429, and none before it was another one.
        account: the provider refused the gateway's account.
        too_long: the request exceeds the model's context window; `window` is its size in tokens, None if unknown.
        retry_on_same: the same provider may answer a second try.
        retry_after_s: from the Retry-After header, in seconds.
        status: of the provider's response; 0 without one.
        provider: name of the provider that responded; empty without a response.
        reported: the provider's own error, without secrets.
    """

    message: str
    sent: bool = True
    final: bool = False
    limited: bool = False
    account: bool = False
    too_long: bool = False
    window: int | None = None
    retry_on_same: bool = True
    retry_after_s: float = 0.0
    status: int = 0
    provider: str = ""
    reported: ReportedError | None = None


MAX_SENT_ATTEMPTS = 3
"""Attempts of one request that were sent, besides 429s and refusals of the account."""
MAX_ATTEMPTS = 8
"""Attempts of one request in all."""


class RoutingState:
    """Attempts made and candidates skipped for one request, and the error that follows from them.

    `attempts` are all, `sent` those that count towards `MAX_SENT_ATTEMPTS`. `failure` is the last one; `failed` the
    last one that decides the error, since it or one before it is no 429, no refusal of the account, and no context
    window that is too small. `too_long` and `account_refused` are the last failures of these kinds; `window` is the
    largest context window that the request exceeded, 0 while none is known. `limited_for` and `out_for` are the
    shortest waits, in seconds, of the candidates that are at a rate limit and of those that are unavailable; None if
    there is no such candidate.
    """

    __slots__ = (
        "account_refused", "attempts", "can_recover", "failed", "failure", "limited_for", "out_for", "record",
        "request", "sent", "too_long", "unsupported", "window",
    )  # fmt: skip

    def __init__(self, request: Request, record: UsageRecord) -> None:
        self.request = request
        self.record = record
        self.attempts = self.sent = 0
        self.failure: Failure | None = None
        self.failed: Failure | None = None
        self.too_long: Failure | None = None
        self.account_refused: Failure | None = None
        self.can_recover = False
        self.window = 0
        self.limited_for: float | None = None
        self.out_for: float | None = None
        self.unsupported: tuple[str, Unsupported] | None = None

    @property
    def is_spent(self) -> bool:
        """Whether the request has had all its attempts."""
        return self.sent >= MAX_SENT_ATTEMPTS or self.attempts >= MAX_ATTEMPTS

    def exceeds(self, window: int | None) -> bool:
        """Return whether the request exceeded a context window that was no smaller; False for one of unknown size."""
        return window is not None and window <= self.window

    def note_skipped(self, seconds: float, *, limited: bool) -> None:
        """Note a candidate that must not be called for `seconds`.

        `limited`: it is at a rate limit; otherwise its breaker is open or its account paused.
        """
        if limited:
            self.limited_for = seconds if self.limited_for is None else min(self.limited_for, seconds)
        else:
            self.out_for = seconds if self.out_for is None else min(self.out_for, seconds)

    def forget_waits(self) -> None:
        """Forget the waits of a lone candidate before it is retried, since the retry may bring a new one."""
        self.limited_for = self.out_for = None

    def note_unsupported(self, provider: str, error: Unsupported) -> None:
        """Note that a candidate's protocol cannot express a field of the request."""
        if self.unsupported is None:
            self.unsupported = provider, error

    def note_failure(self, failure: Failure) -> None:
        """Note a failed attempt. After one failure other than a 429, the client's error is not a 429 either."""
        self.attempts += 1
        if failure.sent and not failure.limited and not failure.account:
            self.sent += 1
        self.can_recover |= failure.retry_on_same
        if failure.too_long:
            self.too_long = failure
            self.window = max(self.window, failure.window or 0)
        elif failure.account:
            self.account_refused = failure
        else:
            if self.failed is not None and failure.limited:
                failure = msgspec.structs.replace(failure, limited=False)
            if not failure.limited:
                self.failed = failure
        self.failure = failure

    def error(self) -> GatewayError:
        """Return the error for the client, once no candidate is left to try."""
        waits = [s for s in (self.limited_for, self.out_for) if s is not None]
        if self.failed is not None:
            return self._error_of(self.failed)
        if self.limited_for is not None:
            return RateLimited(
                "Every provider that could serve this request is at its rate limit.", retry_after_s=min(waits)
            )
        if self.out_for is not None:
            return ProvidersUnavailable(
                "Every provider that could serve this request failed recently and is paused.",
                retry_after_s=self.out_for,
            )
        if self.too_long is not None:
            return self._error_of(self.too_long)
        if self.account_refused is not None:
            refused = ProviderAccountRefused(self.account_refused.message)
            refused.provider = self.account_refused.provider
            return refused
        if self.unsupported is not None:
            provider, error = self.unsupported
            near = if_meant(error.field.rpartition(".")[2], error.known)
            detail = f"Provider {provider} cannot serve this request: {error.field}: {error.why}.{near}"
            return NotSupported(detail, field=error.field)
        return RequestExceedsLimit(
            "Prompt and max_tokens together exceed every provider's token limit per minute: "
            "lower max_tokens, or raise rate_limit_tpm."
        )

    def _error_of(self, failure: Failure) -> GatewayError:
        """Return the error of a failed attempt; on vendor-compatible APIs it has the provider's own words."""
        reported = None if self.request.client_request.is_canonical else failure.reported
        message = failure.message if reported is None else reported.message
        is_refused = failure.final or failure.too_long
        if is_refused and not self.request.client_request.is_canonical:
            status = failure.status if 400 <= failure.status < 500 else 400
            error: ProviderRefused | ProviderFailed = ProviderRefused(message, status=status)
        else:
            error = ProviderFailed(message, retryable=self.can_recover and not is_refused)
        error.provider, error.reported = failure.provider or None, reported
        return error

"""State of one request while failover walks its plan: attempts made, candidates skipped, the error to return."""

from __future__ import annotations

import math
from operator import itemgetter

import msgspec

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.request import Request
from llm_gateway.domain.upstream_call import UpstreamCall
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import (
    GatewayError,
    Invalid,
    NotSupported,
    ProviderAccountRefused,
    ProviderFailed,
    ProviderRefused,
    ProvidersUnavailable,
    RateLimited,
    ReportedError,
    RequestExceedsLimit,
)
from llm_gateway.protocols.contract import Unreadable, Unsupported
from llm_gateway.suggestions import if_meant

AT_LIMIT = "Every provider that could serve this request is at its rate limit."


class Failure(msgspec.Struct, frozen=True):
    """A failed attempt: the facts that decide what is tried next, and which error the client gets.

    Attributes:
        message: with secrets removed.
        sent: the request was sent, so it counts towards the limit of attempts.
        final: return this error to the client; do not try another candidate.
        limited: the failure was a 429 of a rate limit.
        account: the provider refused the gateway's account.
        too_long: the request exceeds the model's context window; `window` is its size in tokens, None if unknown.
        retry_on_same: the same provider may answer a second try.
        retry_after_s: from the Retry-After header, in seconds.
        status: of the provider's response; 0 without one.
        cause: what happened, in one word for usage records; empty for the status.
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
    cause: str = ""
    provider: str = ""
    reported: ReportedError | None = None

    @property
    def may_be_mended(self) -> bool:
        """Whether the provider refused the request's content, which a change of the history may mend."""
        return self.final and not self.too_long and self.status in REFUSED_CONTENT


REFUSED_CONTENT = frozenset({400, 422, 500})
"""Statuses of a refusal of the request's content. 500: llama.cpp, see `providers/openai.py`."""
SIGNATURE = "signature"
"""The `cause` of a failure in which the provider could not verify reasoning that the client returned."""
MAX_SENT_ATTEMPTS = 3
"""Attempts of one request that were sent, besides 429s and refusals of the account."""
MAX_ATTEMPTS = 8
"""Attempts of one request in all."""


class RoutingState(msgspec.Struct, eq=False):
    """Attempts made and candidates skipped for one request, and the error that follows from them.

    Attributes:
        attempts: all attempts made; `sent` counts those towards `MAX_SENT_ATTEMPTS`, `retries` the pauses before
            another attempt at a lone candidate.
        failure: the last failure. `failed` is the last one that decides the error, since it or one before it is no 429,
            no refusal of the account, and no context window that is too small. `too_long` and `account_refused` are the
            last failures of these kinds.
        window: the largest context window that the request exceeded, in tokens; 0 while none is known.
        limited: the candidates at a rate limit, by their `cache_part`, each with the time at which it is expected to
            serve the request, None while that is unknown. `unavailable` holds the ends of the pauses of the candidates
            whose breaker is open, or whose account or model is paused. A candidate is in one of them at most, as it was
            found last. All times are on the clock of the deadline.
        answered_429: the candidates that answered this request with 429, by their `cache_part`: the end of their
            Retry-After.
        mended: the calls with a mended history, by the `cache_part` of the candidate that refused the one as it was.
        budget: the error of the first candidate that a budget has no room for.
        passed: why the candidate before was not the one to answer; None if there was none before.
        last: the candidate that was tried, or passed over, before the present one.
        paid_for: the id of the provider whose budget of retries has paid for this request's next call to it.
        queued_s: the time spent in waiting lines, in seconds; `queued_ms` the same in milliseconds, rounded up.
    """

    request: Request
    record: UsageRecord
    attempts: int = 0
    sent: int = 0
    retries: int = 0
    failure: Failure | None = None
    failed: Failure | None = None
    too_long: Failure | None = None
    account_refused: Failure | None = None
    can_recover: bool = False
    window: int = 0
    limited: dict[bytes, tuple[Candidate, float | None]] = {}
    unavailable: dict[bytes, float] = {}
    answered_429: dict[bytes, float] = {}
    mended: dict[bytes, UpstreamCall] = {}
    unsupported: tuple[str, Unsupported] | None = None
    unreadable: Unreadable | None = None
    budget: GatewayError | None = None
    passed: str | None = None
    last: Candidate | None = None
    paid_for: str | None = None
    queued_s: float = 0.0
    queued_ms: int = 0

    def why(self, candidate: Candidate) -> str | None:
        """Return why an attempt at this candidate is made, as its record tells it (`AttemptRecord.why`)."""
        if self.passed is None:
            return None
        is_again = self.last is not None and self.last.cache_part == candidate.cache_part
        return f"retry:{self.passed}" if is_again else f"failover:{self.passed}"

    @property
    def is_spent(self) -> bool:
        """Whether the request has had all its attempts."""
        return self.sent >= MAX_SENT_ATTEMPTS or self.attempts >= MAX_ATTEMPTS

    def has_answered_429(self, candidate: Candidate) -> bool:
        """Return whether the candidate answered this request with 429."""
        return candidate.cache_part in self.answered_429

    def own_wait_s(self, candidate: Candidate, now: float) -> float:
        """Return the seconds that are left of the Retry-After with which the candidate answered this request."""
        return max(0.0, self.answered_429.get(candidate.cache_part, now) - now)

    def exceeds(self, window: int | None) -> bool:
        """Return whether the request exceeded a context window that was no smaller; False for one of unknown size."""
        return window is not None and window <= self.window

    def note_limited(self, candidate: Candidate, until: float | None = None) -> None:
        """Note a candidate that is at a rate limit, and until when if that is known."""
        self.unavailable.pop(candidate.cache_part, None)
        if until is not None or candidate.cache_part not in self.limited:
            self.limited[candidate.cache_part] = candidate, until

    def note_unavailable(self, candidate: Candidate, until: float) -> None:
        """Note a candidate whose breaker is open, or whose account or model is paused, and until when."""
        self.passed = "unavailable"
        self.limited.pop(candidate.cache_part, None)
        self.unavailable[candidate.cache_part] = until

    def forget_wait(self, candidate: Candidate) -> None:
        """Forget what was noted of a candidate's wait, before it is called or since it no longer holds."""
        self.limited.pop(candidate.cache_part, None)
        self.unavailable.pop(candidate.cache_part, None)

    @property
    def limited_by(self) -> Candidate | None:
        """The candidate at a rate limit that is expected to serve the request first; None if none is known to."""
        known = [(until, candidate) for candidate, until in self.limited.values() if until is not None]
        return min(known, key=itemgetter(0))[1] if known else None

    def note_queued(self, seconds: float) -> None:
        """Note the time that the request has just spent in a waiting line, also in its record."""
        self.queued_s += seconds
        self.queued_ms = self.record.queued_ms = math.ceil(self.queued_s * 1000)

    def note_window(self) -> None:
        """Note a candidate whose context window is known to be too small."""
        self.passed = "context_length"

    def note_too_small(self) -> None:
        """Note a candidate whose token limit the request exceeds."""
        self.passed = "exceeds_limit"

    def note_unsupported(self, provider: str, error: Unsupported) -> None:
        """Note that a candidate's protocol cannot express a field of the request."""
        self.passed = "unsupported"
        if self.unsupported is None:
            self.unsupported = provider, error

    def note_unreadable(self, error: Unreadable) -> None:
        """Note that the request cannot be translated for a candidate, since its document is not valid."""
        self.passed = "unsupported"
        self.unreadable = error

    def note_budget(self, error: GatewayError, candidate: Candidate) -> None:
        """Note that a budget has no room for a call of this candidate."""
        self.passed = "budget"
        self.forget_wait(candidate)
        self.budget = self.budget or error

    def note_failure(self, failure: Failure, candidate: Candidate) -> None:
        """Note a failed attempt. After one failure other than a 429, the client's error is not a 429 either."""
        self.passed = failure.cause or str(failure.status)
        if self.paid_for == candidate.provider.id:
            self.paid_for = None
        self.attempts += 1
        if failure.sent and not failure.limited and not failure.account:
            self.sent += 1
        self.can_recover |= failure.retry_on_same
        if failure.too_long:
            self.too_long = failure
            self.window = max(self.window, failure.window or 0)
        elif failure.account:
            self.account_refused = failure
        elif not failure.limited:
            self.failed = failure
        self.failure = failure

    def _limit_named(self) -> str:
        """Return a sentence about the provider that is free first: its name and its limits."""
        limited_by = self.limited_by
        if limited_by is None:
            return ""
        provider = limited_by.provider
        if self.has_answered_429(limited_by):
            return f" {provider.name} answered 429."
        return (
            f" {provider.name} takes {provider.rate_limit_rpm} request{'s' * (provider.rate_limit_rpm > 1)} and "
            f"{provider.rate_limit_tpm} tokens a minute."
        )

    def error(self, now: float) -> GatewayError:
        """Return the error for the client, once no candidate is left to try. `now` is on the clock of the deadline."""
        limited = [until for _, until in self.limited.values() if until is not None]
        waits = [*limited, *self.unavailable.values()]
        # Rounded, since the sum and difference of two floats can be a little more than a whole second.
        retry_after_s = max(round(min(waits) - now, 6), 0.0) if waits else None
        if self.failed is not None:
            return self._error_of(self.failed)
        if limited:
            return RateLimited(f"{AT_LIMIT}{self._limit_named()}", retry_after_s=retry_after_s)
        if self.budget is not None:
            return self.budget
        if self.unavailable:
            return ProvidersUnavailable(
                "Every provider that could serve this request failed recently and is paused.",
                retry_after_s=retry_after_s,
            )
        if self.too_long is not None:
            return self._error_of(self.too_long)
        if self.account_refused is not None:
            refused = ProviderAccountRefused(self.account_refused.message)
            refused.provider = self.account_refused.provider
            return refused
        if self.unreadable is not None:
            return Invalid(self.unreadable.message, loc=("body", self.unreadable.field))
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

"""Mirror of the limits that a provider reports in response headers: hold back calls that it would answer with 429.

Vendors describe token buckets that refill evenly: one used of 5,000 a minute is reported as whole again in 12 ms
(https://community.openai.com/t/1268905, read 2026-11-27), 30 used of 14,400 a day in 2m59.56s
(https://console.groq.com/docs/rate-limits, read 2026-11-27).
"""

from __future__ import annotations

from llm_gateway.domain.rate_limits import ReportedLimit, ReportedLimits

LONGEST_S = 120.0
"""Seconds for which a report is believed. After that a call finds out anew."""
ROUNDING = 1e-6


class Mirror:
    """One reported limit: `left` of it at the time `at`, and how fast it refills, as far as that is known.

    `taken` is the model's running total, of calls or of tokens, up to the call that brought the report. `most` is the
    whole limit, infinite if it is not known. The report is believed before the time `until`.
    """

    __slots__ = ("at", "counts_bound", "left", "most", "per_s", "taken", "until")

    def __init__(
        self, left: float, at: float, *, most: float, per_s: float, until: float, counts_bound: bool, taken: int
    ) -> None:
        self.left = left
        self.at = at
        self.most = most
        self.per_s = per_s
        self.until = until
        self.counts_bound = counts_bound
        self.taken = taken

    @classmethod
    def of(cls, reported: ReportedLimit, at: float, taken: int, since: int) -> Mirror:
        """Mirror a report that came at the time `at`, where `since` was taken after the call that brought it."""
        most = float("inf") if reported.limit is None else float(reported.limit)
        used = 0 if reported.limit is None else max(reported.limit - reported.remaining, 0)
        per_s = used / reported.reset_s if reported.reset_s > 0 else 0.0
        left = min(float(reported.remaining), most) - (since if reported.counts_bound else 0)
        until = at + (LONGEST_S if per_s else min(reported.reset_s, LONGEST_S))
        return cls(left, at, most=most, per_s=per_s, until=until, counts_bound=reported.counts_bound, taken=taken)

    def left_at(self, now: float) -> float:
        """Return how much is left at the time `now`; infinite if it is not known."""
        if now >= self.until:
            return float("inf")
        left = self.left + self.per_s * (now - self.at)
        return left if left < self.most else self.most  # noqa: FURB136 - min() takes five times as long

    def wait_s(self, now: float, need: int) -> float:
        """Return the seconds until `need` is left; 0 if it is left now.

        A need above the whole limit counts as the whole limit: the provider then decides. Where it does not count a
        call's bound in advance, it is enough that anything is left.
        """
        missing = min(need, self.most if self.counts_bound else 1) - self.left_at(now)
        if missing <= ROUNDING:
            return 0.0
        until = self.until - now
        return min(missing / self.per_s, until) if self.per_s else until

    def take(self, now: float, amount: int) -> None:
        """Subtract what a granted call takes."""
        if now < self.until:
            self.left = self.left_at(now) - (amount if self.counts_bound else 0)
            self.at = now


class ModelUse:
    """The calls and tokens taken of one model, and what its provider reported of its limits for this model.

    `calls` and `tokens` are running totals that never decrease. `is_reported` is False until the first report; until
    then `wait_s` need not be called.
    """

    __slots__ = ("by_requests", "by_tokens", "calls", "is_reported", "tokens")

    def __init__(self) -> None:
        self.calls = 0
        self.tokens = 0
        self.is_reported = False
        self.by_requests: Mirror | None = None
        self.by_tokens: Mirror | None = None

    def report(self, reported: ReportedLimits, now: float, calls: int, tokens: int) -> None:
        """Take over the report of a call, up to and including which the totals were `calls` and `tokens`."""
        if calls > self.calls or tokens > self.tokens:
            return  # a call that was counted before the totals were dropped
        if reported.requests is not None and (self.by_requests is None or self.by_requests.taken <= calls):
            self.by_requests = Mirror.of(reported.requests, now, calls, self.calls - calls)
        if reported.tokens is not None and (self.by_tokens is None or self.by_tokens.taken <= tokens):
            self.by_tokens = Mirror.of(reported.tokens, now, tokens, self.tokens - tokens)
        self.is_reported = True

    def forget_report(self) -> None:
        """Forget what the provider reported."""
        self.is_reported = False
        self.by_requests = self.by_tokens = None

    def take(self, now: float, tokens: int) -> None:
        """Count a granted call."""
        self.calls += 1
        self.tokens += tokens
        if self.by_requests is not None:
            self.by_requests.take(now, 1)
        if self.by_tokens is not None:
            self.by_tokens.take(now, tokens)

    def wait_s(self, now: float, tokens: int, requests: int = 1) -> float:
        """Return the seconds until the reported limits have room for requests with `tokens` in all."""
        wait_s = 0.0 if self.by_requests is None else self.by_requests.wait_s(now, requests)
        return wait_s if self.by_tokens is None else max(wait_s, self.by_tokens.wait_s(now, tokens))

    def left(self, now: float, requests: int, tokens: int) -> tuple[int, int]:
        """Return these numbers of requests and tokens, or what is left of the reported limits if that is less."""
        if self.by_requests is not None:
            requests = int(min(requests, self.by_requests.left_at(now)))
        if self.by_tokens is not None:
            tokens = int(min(tokens, self.by_tokens.left_at(now)))
        return requests, tokens

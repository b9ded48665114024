"""A mirror of the limits that a provider reports in its responses' headers, so that its 429 need not happen.

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
    """One reported limit: how much is left, and how fast it refills, as far as that is known.

    `taken` is the model's running total, of calls or of tokens, up to the call that brought the report.
    """

    __slots__ = ("_at", "_counts_bound", "_left", "_most", "_per_s", "_seen", "_until", "taken")

    def __init__(self, reported: ReportedLimit, at: float, taken: int) -> None:
        self.taken = self._seen = taken
        self._at = at
        self._left = float(reported.remaining)
        self._most = float("inf") if reported.limit is None else reported.limit
        used = 0 if reported.limit is None else max(reported.limit - reported.remaining, 0)
        self._per_s = used / reported.reset_s if reported.reset_s > 0 else 0.0
        self._until = at + (LONGEST_S if self._per_s else min(reported.reset_s, LONGEST_S))
        self._counts_bound = reported.counts_bound

    def left(self, now: float, taken: int) -> float:
        """Return how much is left now, if the gateway's running total is `taken`; infinite if it is not known."""
        if now >= self._until:
            return float("inf")
        self._left = min(self._left + self._per_s * (now - self._at), self._most)
        if self._counts_bound:
            self._left -= taken - self._seen
        self._at, self._seen = now, taken
        return self._left

    def wait_s(self, now: float, taken: int, need: int) -> float:
        """Return the seconds until `need` is left; 0 if it is left now.

        A need above the whole limit counts as the whole limit: the provider then decides. Where it does not count a
        call's bound in advance, it is enough that anything is left.
        """
        missing = min(need, self._most if self._counts_bound else 1) - self.left(now, taken)
        if missing <= ROUNDING:
            return 0.0
        until = self._until - now
        return min(missing / self._per_s, until) if self._per_s else until


class ModelUse:
    """The calls and tokens taken of one model, and what its provider reported of its limits for this model.

    `calls` and `tokens` are running totals that never decrease. `is_reported` is False until the first report; until
    then `wait_s` need not be called.
    """

    __slots__ = ("_by_requests", "_by_tokens", "calls", "is_reported", "tokens")

    def __init__(self) -> None:
        self.calls = 0
        self.tokens = 0
        self.is_reported = False
        self._by_requests: Mirror | None = None
        self._by_tokens: Mirror | None = None

    def report(self, reported: ReportedLimits, now: float, calls: int, tokens: int) -> None:
        """Take over the report of a call, up to and including which the totals were `calls` and `tokens`."""
        if reported.requests is not None and (self._by_requests is None or self._by_requests.taken <= calls):
            self._by_requests = Mirror(reported.requests, now, calls)
        if reported.tokens is not None and (self._by_tokens is None or self._by_tokens.taken <= tokens):
            self._by_tokens = Mirror(reported.tokens, now, tokens)
        self.is_reported = True

    def forget_report(self) -> None:
        """Forget what the provider reported."""
        self.is_reported = False
        self._by_requests = self._by_tokens = None

    def wait_s(self, now: float, tokens: int, requests: int = 1) -> float:
        """Return the seconds until the reported limits have room for requests with `tokens` in all."""
        wait_s = 0.0 if self._by_requests is None else self._by_requests.wait_s(now, self.calls, requests)
        return wait_s if self._by_tokens is None else max(wait_s, self._by_tokens.wait_s(now, self.tokens, tokens))

    def left(self, now: float, requests: int, tokens: int) -> tuple[int, int]:
        """Return these numbers of requests and tokens, or what is left of the reported limits if that is less."""
        if self._by_requests is not None:
            requests = int(min(requests, self._by_requests.left(now, self.calls)))
        if self._by_tokens is not None:
            tokens = int(min(tokens, self._by_tokens.left(now, self.tokens)))
        return requests, tokens

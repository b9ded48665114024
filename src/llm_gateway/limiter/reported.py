"""A mirror of the limits that a provider reports in its responses' headers, so that its 429 need not happen.

Vendors describe token buckets that refill evenly: one used of 5,000 a minute is reported as whole again in 12 ms
(https://community.openai.com/t/1268905, read 2026-11-27), 30 used of 14,400 a day in 2m59.56s
(https://console.groq.com/docs/rate-limits, read 2026-11-27).
"""

from __future__ import annotations

from llm_gateway.domain.rate_limits import ReportedLimit

LONGEST_S = 120.0
"""Seconds for which a report is believed. After that a call finds out anew."""


class Mirror:
    """One reported limit: what was left at `at`, and how fast it refills.

    `taken` is the running total of this limit in the gateway's own window, up to the call that brought the report.
    """

    __slots__ = ("_at", "_counts_bound", "_most", "_per_s", "_remaining", "_until", "taken")

    def __init__(self, reported: ReportedLimit, at: float, taken: int) -> None:
        self._at = at
        self._remaining = reported.remaining
        self._most = reported.limit
        self._until = at + min(reported.reset_s, LONGEST_S)
        used = 0 if reported.limit is None else max(reported.limit - reported.remaining, 0)
        self._per_s = used / reported.reset_s if reported.reset_s > 0 else 0.0
        self._counts_bound = reported.counts_bound
        self.taken = taken

    def left(self, now: float, taken: int) -> float:
        """Return how much is left now, if the gateway's running total is `taken`; infinite once the limit is whole."""
        if now >= self._until:
            return float("inf")
        not_counted = taken - self.taken if self._counts_bound else 0
        return self._remaining + self._per_s * (now - self._at) - not_counted

    def wait_s(self, now: float, taken: int, need: int) -> float:
        """Return the seconds until `need` is left; 0 if it is left now.

        A need above the whole limit counts as the whole limit: the provider then decides. Where it does not count a
        call's bound in advance, it is enough that anything is left.
        """
        if not self._counts_bound:
            need = min(need, 1)
        elif self._most is not None:
            need = min(need, self._most)
        missing = need - self.left(now, taken)
        if missing <= 1e-6:  # noqa: PLR2004 - rounding of floats
            return 0.0
        until_whole = self._until - now
        return min(missing / self._per_s, until_whole) if self._per_s else until_whole

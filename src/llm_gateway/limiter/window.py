"""The window of one provider: 61 one-second buckets of requests and tokens, with running sums.

A call counts in the whole second in which it was taken. Any 60 seconds overlap at most 61 such seconds, so a sum over
61 buckets that stays within the limit keeps every 60 seconds within it.
"""

from __future__ import annotations

from llm_gateway.limiter.durations import Durations, remaining_s
from llm_gateway.limiter.reported import ModelUse

BUCKETS = 61
"""Seconds in a window; see the module's docstring."""
RECENT = 1 / 16
"""Weight of the last call in `used_share`."""


def blend(used_share: float, reserved: int, tokens: int) -> float:
    """Return the average share of their reserved tokens that calls used, with one more call that used `tokens`."""
    share = tokens / reserved if tokens < reserved else 1.0
    return used_share + (share - used_share) * RECENT if used_share else share


class Window:
    """Counts of the last 61 seconds of one provider. `second` is the newest, which ends at `until`.

    Second `s` has the index `s % 61`.
    `open_tokens` is the part of `tokens` whose calls have not ended. `newest` is the second of the last call.
    `models` holds the use of each model that was called. `used_share` is the average share of their reserved tokens
    that recent calls used. `uncapped_ms` is the change of the provider after which reports were forgotten last.
    """

    __slots__ = (
        "durations", "models", "newest", "open_tokens", "request_sum", "requests", "second", "token_sum", "tokens",
        "uncapped_ms", "until", "used_share",
    )  # fmt: skip

    def __init__(self, second: int) -> None:
        self.second = self.newest = second
        self.until = second + 1.0
        self.requests = [0] * BUCKETS
        self.tokens = [0] * BUCKETS
        self.open_tokens = [0] * BUCKETS
        self.request_sum = 0
        self.token_sum = 0
        self.durations = Durations()
        self.used_share = 0.0  # before any call has ended: a waiter that it keeps in vain is refused soon
        self.models: dict[str, ModelUse] = {}
        self.uncapped_ms = 0

    def advance(self, second: int) -> None:
        """Move the window's end to `second`, and drop the seconds that leave the window."""
        # At most one turn around the ring, however long nothing happened.
        for passed in range(max(self.second, second - BUCKETS) + 1, second + 1):
            index = passed % BUCKETS
            self.request_sum -= self.requests[index]
            self.token_sum -= self.tokens[index]
            self.requests[index] = self.tokens[index] = self.open_tokens[index] = 0
        self.second, self.until = second, second + 1.0

    def refill(self, second: int, tokens: int) -> None:
        """Count a call of an earlier run."""
        self.requests[second % BUCKETS] += 1
        self.tokens[second % BUCKETS] += tokens
        self.request_sum += 1
        self.token_sum += tokens
        self.newest = max(second, self.newest)

    def wait_s(self, now: float, rpm: int, tpm: int, tokens: int, requests: int = 1) -> float:
        """Return the seconds until requests with `tokens` in all could fit if no other comes; 0 if they fit now."""
        requests_over = self.request_sum + requests - rpm
        tokens_over = self.token_sum + tokens - tpm
        by_requests = self._leaving_s(now, self.requests, requests_over) if requests_over > 0 else 0.0
        if tokens_over <= 0:
            return by_requests
        by_tokens = self._leaving_s(now, self.tokens, tokens_over)
        if any(self.open_tokens):
            by_tokens = min(by_tokens, self._settling_s(now, tokens_over))
        return max(by_requests, by_tokens)

    def _leaving_s(self, now: float, counts: list[int], over: int) -> float:
        """Return the seconds until `over` of `counts` have left the window."""
        for leaving in range(self.second - BUCKETS + 1, self.second + 1):  # the oldest second leaves first
            over -= counts[leaving % BUCKETS]
            if over <= 0:
                break
        return leaving + BUCKETS - now

    def _settling_s(self, now: float, over: int) -> float:
        """Return the seconds until `over` tokens can be free if open calls give all of theirs back, oldest first."""
        longest_s, durations = 0.0, self.durations.sorted()
        rest = over - sum(self.open_tokens)
        if rest > 0:
            used = [all_ - open_ for all_, open_ in zip(self.tokens, self.open_tokens, strict=True)]
            longest_s = self._leaving_s(now, used, rest)
        for second in range(self.second - BUCKETS + 1, self.second + 1):
            if self.open_tokens[second % BUCKETS]:
                longest_s = max(longest_s, remaining_s(durations, max(now - second - 0.5, 0.0)))
                over -= self.open_tokens[second % BUCKETS]
                if over <= 0:
                    break
        return longest_s

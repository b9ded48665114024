"""Choose the traces that are sent, once a request is over and everything about it is known.

| first rule that applies                                                  | sent, with the reason           |
|--------------------------------------------------------------------------|---------------------------------|
| the caller's `traceparent` has a sampled flag                            | `parent` if it is set, else not |
| it ended as an error, or a limit, a budget or a breaker refused it       | `error`                         |
| it took more than one attempt, or not at the first candidate             | `failover`                      |
| it is one of the slowest 1 %                                             | `slow`                          |
| it is one of the dearest 1 %                                             | `dear`                          |
| the last 56 bits of its trace id are below the ratio of all their values | `ratio`                         |

These bits are random in a UUIDv7, and in ids that callers make (W3C Trace Context Level 2, section 3.2.2.3).
"""

from __future__ import annotations

from llm_gateway.control.otlp.conventions import is_error
from llm_gateway.domain.trace_context import SAMPLED
from llm_gateway.domain.usage import UsageRecord

TOP_SHARE = 0.01
"""Share of the requests that are slow, and dear."""
RECOMPUTED_EVERY = 100
"""Requests after which the bound of the share is computed anew. Until then no request counts as slow or dear."""
REMEMBERED = 10_000
"""Requests after which earlier ones count half."""
PER_DOUBLING = 16
"""Buckets of the values between a number and its double: their widths are 4 %."""
RANDOM_BITS = 56


class TopShare:
    """The largest values of a stream: counts of buckets, in which values of long ago weigh less."""

    def __init__(self, share: float = TOP_SHARE) -> None:
        self._share = share
        self._counts: dict[int, int] = {}
        self._total = 0
        self._least: int | None = None
        """The lowest bucket that belongs to the share; None if none does, or too few values were seen."""
        self._fresh = 0

    def __call__(self, value: int) -> bool:
        """Count a value, and return whether it is one of the largest."""
        self._total += 1
        self._fresh += 1
        bucket = -1
        if value > 0:
            # Buckets within a doubling are linear: exact enough, and without a logarithm.
            doublings = value.bit_length() - 1
            bucket = doublings * PER_DOUBLING + ((value << 4 >> doublings) & 15)
            self._counts[bucket] = self._counts.get(bucket, 0) + 1
        if self._fresh >= RECOMPUTED_EVERY:
            self._recompute()
        return self._least is not None and bucket >= self._least

    def _recompute(self) -> None:
        self._fresh = 0
        if self._total > REMEMBERED:
            self._counts = {bucket: half for bucket, count in self._counts.items() if (half := count // 2)}
            self._total //= 2
        self._least = None
        count, most = 0, self._share * self._total
        for bucket in sorted(self._counts, reverse=True):
            count += self._counts[bucket]
            if count > most:
                break
            self._least = bucket


class Sampler:
    """Chooses among finished requests. `ratio` is from 0 to 1."""

    def __init__(self, ratio: float) -> None:
        self._below = int(ratio * (1 << RANDOM_BITS))
        self._is_slow = TopShare()
        self._is_dear = TopShare()

    def reason(self, record: UsageRecord, trace_id: str) -> str | None:
        """Return why a request's trace is sent, None if it is not. Call it once for each request."""
        is_slow, is_dear = self._is_slow(record.latency_ms), self._is_dear(record.cost_nanos)
        if record.traceparent is not None:
            return "parent" if int(record.traceparent[-2:], 16) & SAMPLED else None
        if is_error(record):
            return "error"
        if len(record.attempts) > 1 or (record.attempts and record.attempts[0].why is not None):
            return "failover"
        if is_slow:
            return "slow"
        if is_dear:
            return "dear"
        return "ratio" if int(trace_id[-RANDOM_BITS // 4 :], 16) < self._below else None

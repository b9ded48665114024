"""Usage summed by hour and day: pure sums over records, added to the table by `usage.py`.

Every record is counted once under its service and once under its customer. Under a provider stand the cost and tokens
of each attempt it served, and the requests it answered (or was the last one tried for).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import sub
from typing import NamedTuple, TypeAlias

import msgspec

from llm_gateway.domain.usage import Usage, UsageRecord
from llm_gateway.errors import RecordsRefused

HOUR_MS = 3_600_000
DAY_MS = 86_400_000

SERVICE = "service"
CUSTOMER = "customer"
PROVIDER = "provider"


class Grain(NamedTuple):
    """How long a bucket is. Buckets are counted from 1970, so those of each grain fill those of every longer one."""

    name: str
    hours: int

    @property
    def ms(self) -> int:
        """The same in milliseconds."""
        return self.hours * HOUR_MS


HOUR = Grain("hour", 1)
DAY = Grain("day", 24)
BLOCKS = tuple(Grain(f"{days}days", days * 24) for days in (2, 4, 8, 16, 32))
"""Only customers have these; each is made of two of the grain before it."""


class Stretch(NamedTuple):
    """Buckets in a row from `start_ms` to before `end_ms`, whose sums are to be added (`sign` 1) or subtracted (-1)."""

    grain: Grain
    start_ms: int
    end_ms: int
    sign: int = 1


LARGEST_SUM = 2**53
"""No batch may add more than this to any counter, so that 64 bits hold a bucket's sum whatever a provider reports."""

ERRORS = frozenset({"rate_limited", "failed", "no_provider"})

Key: TypeAlias = tuple[str, int, str]
"""(dimension, number of the hour or day since 1970, service or customer or provider name)."""


class Totals(msgspec.Struct, gc=False):
    """Counters of a bucket or a report; a field is a column of usage_rollups.

    Tokens and `cost_nanos` (nano-dollars) are what was bought; `latency_ms` is the sum over `ok_requests`.
    """

    requests: int = 0
    cached_requests: int = 0
    error_requests: int = 0
    ok_requests: int = 0
    estimated_requests: int = 0
    unpriced_requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nanos: int = 0
    latency_ms: int = 0

    @property
    def exact_requests(self) -> int:
        """Requests whose cost is exact."""
        return self.requests - self.estimated_requests - self.unpriced_requests

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    @property
    def cache_hit_rate(self) -> float:
        """Hits among all requests, 0 when there are none."""
        return self.cached_requests / self.requests if self.requests else 0.0

    @property
    def avg_latency_ms(self) -> float:
        """Mean latency of the uncached successes, 0 when there are none."""
        return self.latency_ms / self.ok_requests if self.ok_requests else 0.0

    def count(self, record: UsageRecord) -> None:
        """Add one request and how it ended."""
        self.requests += 1
        if record.outcome == "ok":
            self.ok_requests += 1
            self.latency_ms += record.latency_ms
        elif record.outcome == "cached":
            self.cached_requests += 1
        elif record.outcome in ERRORS:
            self.error_requests += 1
        if record.cost_status == "estimated":
            self.estimated_requests += 1
        elif record.cost_status == "unpriced":
            self.unpriced_requests += 1

    def buy(self, usage: Usage, cost_nanos: int) -> None:
        """Add what was bought."""
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        self.cost_nanos += cost_nanos

    def plus(self, other: Totals) -> Totals:
        """The sum of both, as a new object."""
        mine, others = msgspec.structs.astuple(self), msgspec.structs.astuple(other)
        return Totals(*map(sum, zip(mine, others, strict=True)))

    def minus(self, other: Totals) -> Totals:
        """The difference, as a new object."""
        mine, others = msgspec.structs.astuple(self), msgspec.structs.astuple(other)
        return Totals(*map(sub, mine, others))


COUNTERS = Totals.__struct_fields__


def hourly(records: Iterable[UsageRecord]) -> dict[Key, Totals]:
    """The records summed by dimension, hour and name.

    Raises:
        RecordsRefused: a sum is negative or so large that the counters could overflow.
    """
    sums = _sums(records)
    _refuse_overflow(sums)
    return sums


def change(before: Iterable[UsageRecord], after: Iterable[UsageRecord]) -> dict[Key, Totals]:
    """What must be added to the hourly sums when records are replaced by others.

    Raises:
        RecordsRefused: a sum changes by so much that the counters could overflow.
    """
    differences = _sums(after)
    for key, totals in _sums(before).items():
        differences[key] = differences.get(key, Totals()).minus(totals)
    for (dimension, _, name), totals in differences.items():
        if max(map(abs, msgspec.structs.astuple(totals))) > LARGEST_SUM:
            raise RecordsRefused(f"The figures of {dimension} {name!r} would become too large to be summed.")
    return differences


def coarser(sums: Iterable[tuple[Key, Totals]], factor: int) -> dict[Key, Totals]:
    """The sums of buckets added up to those of buckets that are `factor` times as long."""
    added: dict[Key, Totals] = {}
    for (dimension, number, name), totals in sums:
        key = (dimension, number // factor, name)
        known = added.get(key)
        added[key] = totals if known is None else known.plus(totals)
    return added


def cover(start_ms: int, end_ms: int, grains: Sequence[tuple[Grain, int]]) -> list[Stretch]:
    """Stretches of buckets that together are the time from an hour to before a midnight, few buckets in all.

    `grains` are those beyond the hour, the day first, each with where its buckets end (milliseconds).
    """
    if start_ms >= end_ms:
        return []
    if not grains:
        return _hours_to_midnight(start_ms, end_ms)
    *shorter, (grain, until_ms) = grains
    first = -(-start_ms // grain.ms) * grain.ms
    last = min(end_ms, until_ms) // grain.ms * grain.ms
    if first >= last:
        return cover(start_ms, end_ms, shorter)
    return [*cover(start_ms, first, shorter), Stretch(grain, first, last), *cover(last, end_ms, shorter)]


def _hours_to_midnight(start_ms: int, midnight_ms: int) -> list[Stretch]:
    """The hours, or the day without the hours before: whichever is fewer."""
    morning_ms = midnight_ms - DAY.ms
    if midnight_ms - start_ms <= start_ms - morning_ms:
        return [Stretch(HOUR, start_ms, midnight_ms)]
    return [Stretch(DAY, morning_ms, midnight_ms), Stretch(HOUR, morning_ms, start_ms, -1)]


def _sums(records: Iterable[UsageRecord]) -> dict[Key, Totals]:
    sums: dict[Key, Totals] = {}
    for record in records:
        hour = record.at_ms // HOUR_MS
        for key in ((SERVICE, hour, record.service), (CUSTOMER, hour, record.user_id)):
            totals = sums.get(key) or sums.setdefault(key, Totals())
            totals.count(record)
            totals.buy(record.usage, record.cost_nanos)
        if record.attempts:
            _add_attempts(sums, hour, record)
    return sums


def _add_attempts(sums: dict[Key, Totals], hour: int, record: UsageRecord) -> None:
    for attempt in record.attempts:
        usage = attempt.usage
        if attempt.cost_nanos or usage.input_tokens or usage.output_tokens:
            sums.setdefault((PROVIDER, hour, attempt.provider), Totals()).buy(usage, attempt.cost_nanos)
    if record.provider is not None:
        sums.setdefault((PROVIDER, hour, record.provider), Totals()).count(record)


def _refuse_overflow(sums: Mapping[Key, Totals]) -> None:
    # A customer's sums are parts of its services' sums, and there can be thousands of customers.
    for (dimension, _, name), totals in sums.items():
        if dimension == CUSTOMER:
            continue
        figures = msgspec.structs.astuple(totals)
        if max(figures) > LARGEST_SUM or min(figures) < 0:
            raise RecordsRefused(f"The figures of {dimension} {name!r} are negative or too large to be summed.")

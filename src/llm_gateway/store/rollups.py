"""Compute usage totals from records, and the fewest hours, days and blocks that cover a report's period. No SQL.

`rollup_table.py` adds the sums to the database. Every record counts once for its service and once for its customer. A
provider gets the cost and tokens of each of its attempts, and the requests that it answered or was tried last for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import add, sub
from typing import NamedTuple, TypeAlias

import msgspec

from llm_gateway.domain.usage import Usage, UsageRecord
from llm_gateway.errors import RecordsRefused

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000

SERVICE = "service"
CUSTOMER = "customer"
PROVIDER = "provider"
"""The dimensions of rollups."""


class Grain(NamedTuple):
    """Length of a bucket. Buckets are counted from 1970, so each lies within one bucket of every longer grain."""

    hours: int

    @property
    def ms(self) -> int:
        """Length in milliseconds."""
        return self.hours * HOUR_MS


HOUR = Grain(1)
DAY = Grain(24)
BLOCKS = tuple(Grain(days * DAY.hours) for days in (2, 4, 8, 16, 32))
"""Blocks of days, for customers only; each is summed from two buckets of the grain before."""


TO_DATE = Grain(0)
"""Totals of customers from the start of the newest block of 32 days to a midnight; that is the bucket, in days."""


class Stretch(NamedTuple):
    """Consecutive buckets from `start_ms` to before `end_ms`, to be added (`sign` 1) or subtracted (-1) in a report."""

    grain: Grain
    start_ms: int
    end_ms: int
    sign: int = 1


LARGEST_SUM = 2**53
"""Maximum that one batch may add to a counter, so that 64 bits hold a bucket's sum whatever providers report."""

ERRORS = frozenset({"rate_limited", "failed", "no_provider", "refused_budget"})
"""Outcomes that count as errors in reports."""

Key: TypeAlias = tuple[str, int, str]
"""(dimension, number of the bucket since 1970, name of the service, customer or provider)."""


class Totals(msgspec.Struct, gc=False):
    """Counters of a bucket or a report; each field is a column of usage_rollups.

    Tokens and `cost_nanos` (nano-dollars) are those billed by providers; `latency_ms` is the sum over `ok_requests`,
    `saved_cost_nanos` what hits of the cache would have cost.
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
    saved_cost_nanos: int = 0

    @property
    def exact_requests(self) -> int:
        """Number of requests whose cost is exact."""
        return self.requests - self.estimated_requests - self.unpriced_requests

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    @property
    def cache_hit_rate(self) -> float:
        """Share of cache hits in all requests, 0…1; 0 without requests."""
        return self.cached_requests / self.requests if self.requests else 0.0

    @property
    def avg_latency_ms(self) -> float:
        """Mean latency of successful, uncached requests in milliseconds; 0 if there are none."""
        return self.latency_ms / self.ok_requests if self.ok_requests else 0.0

    def count(self, record: UsageRecord) -> None:
        """Count one request: its outcome, latency and cost status."""
        outcome, cost_status = record.outcome, record.cost_status
        self.requests += 1
        if outcome == "ok":
            self.ok_requests += 1
            self.latency_ms += record.latency_ms
        elif outcome == "cached":
            self.cached_requests += 1
            self.saved_cost_nanos += record.saved_cost_nanos
        elif outcome in ERRORS:
            self.error_requests += 1
        if cost_status == "estimated":
            self.estimated_requests += 1
        elif cost_status == "unpriced":
            self.unpriced_requests += 1

    def buy(self, usage: Usage, cost_nanos: int) -> None:
        """Add the billed tokens and cost."""
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        self.cost_nanos += cost_nanos

    def add(self, record: UsageRecord, usage: Usage) -> None:
        """Count a request and add its tokens, those of `usage`, and its cost: `count` and `buy` in one call."""
        outcome, cost_status = record.outcome, record.cost_status
        self.requests += 1
        if outcome == "ok":
            self.ok_requests += 1
            self.latency_ms += record.latency_ms
        elif outcome == "cached":
            self.cached_requests += 1
            self.saved_cost_nanos += record.saved_cost_nanos
        elif outcome in ERRORS:
            self.error_requests += 1
        if cost_status == "estimated":
            self.estimated_requests += 1
        elif cost_status == "unpriced":
            self.unpriced_requests += 1
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        self.cost_nanos += record.cost_nanos

    def plus(self, other: Totals) -> Totals:
        """Return the sum of both as a new object."""
        mine, others = msgspec.structs.astuple(self), msgspec.structs.astuple(other)
        return Totals(*map(add, mine, others))

    def minus(self, other: Totals) -> Totals:
        """Return the difference as a new object."""
        mine, others = msgspec.structs.astuple(self), msgspec.structs.astuple(other)
        return Totals(*map(sub, mine, others))


COUNTERS = Totals.__struct_fields__


def hourly(records: Iterable[UsageRecord]) -> dict[Key, Totals]:
    """Sum records by dimension, hour and name.

    Raises:
        RecordsRefused: a sum is negative, or so large that the counters could overflow.
    """
    sums = record_sums(records)
    refuse_overflow(sums)
    return sums


def change(before: Iterable[UsageRecord], after: Iterable[UsageRecord]) -> dict[Key, Totals]:
    """Return what to add to the hourly sums when the records `before` are replaced by `after`.

    Raises:
        RecordsRefused: a sum changes so much that the counters could overflow.
    """
    differences = record_sums(after)
    for key, totals in record_sums(before).items():
        differences[key] = differences.get(key, Totals()).minus(totals)
    for (dimension, _, name), totals in differences.items():
        if max(map(abs, msgspec.structs.astuple(totals))) > LARGEST_SUM:
            raise RecordsRefused(f"The figures of {dimension} {name!r} would become too large to be summed.")
    return differences


def coarser(sums: Iterable[tuple[Key, Totals]], factor: int) -> dict[Key, Totals]:
    """Add up the sums to buckets that are `factor` times as long."""
    added: dict[Key, Totals] = {}
    for (dimension, number, name), totals in sums:
        key = (dimension, number // factor, name)
        known = added.get(key)
        added[key] = totals if known is None else known.plus(totals)
    return added


def cover(
    start_ms: int, end_ms: int, grains: Sequence[tuple[Grain, int]], to_date: tuple[int, int] | None = None
) -> list[Stretch]:
    """Cover the time from the start of an hour to a midnight with as few buckets as possible.

    `grains` lists the grains longer than an hour, the day first, each with the end of its existing buckets
    (milliseconds UTC). `to_date` is the period of the rows of TO_DATE, if there are any.
    """
    if start_ms >= end_ms:
        return []
    if to_date is not None and start_ms <= to_date[0] and to_date[1] <= end_ms:
        before, after = cover(start_ms, to_date[0], grains), cover(to_date[1], end_ms, grains)
        return [*before, Stretch(TO_DATE, *to_date), *after]
    if not grains:
        return _hours_to_midnight(start_ms, end_ms)
    *shorter, (grain, until_ms) = grains
    first = -(-start_ms // grain.ms) * grain.ms
    last = min(end_ms, until_ms) // grain.ms * grain.ms
    if first > last:
        return cover(start_ms, end_ms, shorter)
    whole = [Stretch(grain, first, last)] if first < last else []
    return [*_to_end_of_bucket(start_ms, first, grain, shorter), *whole, *cover(last, end_ms, shorter)]


def _to_end_of_bucket(start_ms: int, end_ms: int, grain: Grain, shorter: Sequence[tuple[Grain, int]]) -> list[Stretch]:
    """Cover the end of a bucket by shorter ones, or by the bucket minus those before, whichever needs fewer."""
    found = [cover(start_ms, end_ms, shorter)]
    begin_ms, morning_ms, midnight_ms = end_ms - grain.ms, start_ms // DAY.ms * DAY.ms, -(-start_ms // DAY.ms) * DAY.ms
    if shorter and midnight_ms < end_ms:
        whole = Stretch(grain, begin_ms, end_ms)
        found.append([*cover(start_ms, midnight_ms, shorter[:1]), whole, *_minus(begin_ms, midnight_ms, shorter)])
        if morning_ms < start_ms:
            hours = Stretch(HOUR, morning_ms, start_ms, -1)
            found.append([whole, *_minus(begin_ms, morning_ms, shorter), hours])
    return min(found, key=_buckets)


def _minus(start_ms: int, end_ms: int, grains: Sequence[tuple[Grain, int]]) -> list[Stretch]:
    return [each._replace(sign=-each.sign) for each in cover(start_ms, end_ms, grains)]


def _buckets(stretches: Iterable[Stretch]) -> int:
    return sum((end_ms - start_ms) // grain.ms for grain, start_ms, end_ms, _ in stretches)


def _hours_to_midnight(start_ms: int, midnight_ms: int) -> list[Stretch]:
    """Cover the end of a day by its hours, or by the day minus the hours before, whichever needs fewer buckets."""
    morning_ms = midnight_ms - DAY.ms
    if midnight_ms - start_ms <= start_ms - morning_ms:
        return [Stretch(HOUR, start_ms, midnight_ms)]
    return [Stretch(DAY, morning_ms, midnight_ms), Stretch(HOUR, morning_ms, start_ms, -1)]


def record_sums(records: Iterable[UsageRecord]) -> dict[Key, Totals]:
    """Sum records by dimension, hour and name. Sums may be of any size."""
    sums: defaultdict[Key, Totals] = defaultdict(Totals)
    for record in records:
        hour, usage = record.at_ms // HOUR_MS, record.usage
        for key in ((SERVICE, hour, record.service), (CUSTOMER, hour, record.user_id)):
            sums[key].add(record, usage)
        if record.attempts:
            _add_attempts(sums, hour, record)
    return sums


def customer_sums(records: Iterable[UsageRecord]) -> dict[Key, Totals]:
    """Sum records by hour and customer: the part of `record_sums` that is about customers."""
    sums: defaultdict[Key, Totals] = defaultdict(Totals)
    for record in records:
        sums[CUSTOMER, record.at_ms // HOUR_MS, record.user_id].add(record, record.usage)
    return sums


def _add_attempts(sums: defaultdict[Key, Totals], hour: int, record: UsageRecord) -> None:
    for attempt in record.attempts:
        usage = attempt.usage
        if attempt.cost_nanos or usage.input_tokens or usage.output_tokens:
            sums[(PROVIDER, hour, attempt.provider)].buy(usage, attempt.cost_nanos)
    if record.provider is not None:
        sums[(PROVIDER, hour, record.provider)].count(record)


def refuse_overflow(sums: Mapping[Key, Totals]) -> None:
    """Refuse sums that the counters may not be able to hold.

    Raises:
        RecordsRefused: a sum is negative, or so large that the counters could overflow.
    """
    # Customers are skipped: their sums are parts of the services' sums, and there can be thousands of them.
    for (dimension, _, name), totals in sums.items():
        if dimension == CUSTOMER:
            continue
        figures = msgspec.structs.astuple(totals)
        if max(figures) > LARGEST_SUM or min(figures) < 0:
            raise RecordsRefused(f"The figures of {dimension} {name!r} are negative or too large to be summed.")

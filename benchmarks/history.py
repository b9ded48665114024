"""Generate a long history of random usage records, and write it to a database.

One day is written through `UsageStore.write` and copied to all others within the database; today is written as well.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import copy
from time import perf_counter

import msgspec

from benchmarks.copied_days import DayCopies
from llm_gateway.domain.usage import RECORD_VERSION, AttemptRecord, Outcome, Price, Usage, UsageRecord, cost
from llm_gateway.store.usage import UsageStore

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
SAMPLES = 5000
RECORDS_A_BATCH = 5000
SAY_EVERY_S = 5.0

PRICES = {
    "openai": Price(((0, 150_000_000),), ((0, 600_000_000),)),
    "anthropic": Price(((0, 3_000_000_000),), ((0, 15_000_000_000),)),
    "gemini": Price(((0, 1_250_000_000), (200_000, 2_500_000_000)), ((0, 10_000_000_000), (200_000, 15_000_000_000))),
    "groq": Price(((0, 50_000_000),), ((0, 80_000_000),)),
}
OUTCOMES: dict[Outcome, float] = {
    "ok": 0.86,
    "cached": 0.08,
    "failed": 0.02,
    "rate_limited": 0.02,
    "cancelled": 0.01,
    "no_provider": 0.01,
}


class Shape(msgspec.Struct, frozen=True):
    """Size of a history. All customers call equally often, the case with the most rows to sum."""

    records: int = 10_000_000
    days: int = 90
    customers: int = 10_000
    services: int = 20
    keys: int = 0
    """Keys of the API, which belong to ten teams and to one service each; 0 for a single key of the environment."""

    def __str__(self) -> str:
        return (
            f"{self.records:,} records of {self.days} days, {self.customers:,} customers who call equally often, "
            f"{self.services} services, {self.keys or 1} keys, {len(PRICES)} providers"
        )


class History:
    """Generator of records for the `days` before `end_ms` and for later; the same `seed` gives the same records."""

    def __init__(self, shape: Shape, end_ms: int, seed: int = 7) -> None:
        self.shape = shape
        self.end_ms = end_ms
        self._random = random.Random(seed)
        self._customers = [f"customer-{number:05d}" for number in range(shape.customers)]
        self._services = [f"service-{number:02d}" for number in range(shape.services)]
        outcomes = self._random.choices(list(OUTCOMES), list(OUTCOMES.values()), k=SAMPLES)
        self._samples = [self._sample(outcome) for outcome in outcomes]

    def write(self, store: UsageStore, url: str, say: Callable[[str], None]) -> float:
        """Write the whole history to the database at `url`, and build its blocks. Returns the seconds that took."""
        began = said = perf_counter()
        today = self.end_ms // DAY_MS
        first, midnight_ms = today - self.shape.days, today * DAY_MS
        a_day = self.shape.records * DAY_MS // (self.end_ms - first * DAY_MS)
        self._write_evenly(store, first * DAY_MS, first * DAY_MS + DAY_MS, a_day)
        self._write_evenly(store, midnight_ms, self.end_ms, self.shape.records - a_day * self.shape.days)

        def tell(days: int) -> None:
            nonlocal said
            if perf_counter() - said > SAY_EVERY_S:
                said = perf_counter()
                say(f"  {a_day * (days + 1):,} of {self.shape.records:,} records written")

        DayCopies(url).make(first, range(first + 1, today), tell)
        say(f"  {self.shape.records:,} of {self.shape.records:,} records written")
        while store.build_block(self.end_ms - HOUR_MS) or store.build_margins(self.end_ms - HOUR_MS):
            pass
        return perf_counter() - began

    def made_at(self, moments_ms: list[int]) -> list[UsageRecord]:
        """Return one record for each of these times."""
        count = len(moments_ms)
        samples = self._random.choices(self._samples, k=count)
        customers = self._random.choices(self._customers, k=count)
        services = self._random.choices(self._services, k=count)
        records = []
        for at_ms, sample, customer, service in zip(moments_ms, samples, customers, services, strict=True):
            record = copy(sample)
            record.id, record.at_ms, record.user_id, record.service = (
                _id(at_ms, self._random.getrandbits(80)),
                at_ms,
                customer,
                service,
            )
            record.attempts = [_moved(attempt, at_ms) for attempt in sample.attempts]
            if sample.client_request_id is not None:
                record.client_request_id = _id(at_ms, self._random.getrandbits(80))
            if self.shape.keys:
                self._give_key(record)
            records.append(record)
        return records

    def _give_key(self, record: UsageRecord) -> None:
        key = self._random.randrange(self.shape.keys)
        record.key_name, record.key_id, record.team_id = (
            f"key-{key:03d}",
            _id(1, key),
            _id(2, key * 10 // self.shape.keys),
        )
        record.service = self._services[key % len(self._services)]

    def _write_evenly(self, store: UsageStore, start_ms: int, end_ms: int, count: int) -> None:
        moments = [start_ms + (end_ms - start_ms) * number // count for number in range(count)]
        for start in range(0, count, RECORDS_A_BATCH):
            store.write(self.made_at(moments[start : start + RECORDS_A_BATCH]))

    def _sample(self, outcome: Outcome) -> UsageRecord:
        attempts = []
        if outcome in ("ok", "cancelled", "failed"):
            attempts = [self._attempt()]
        if outcome == "failed":  # the first attempt was billed, the second refused
            attempts.append(msgspec.structs.replace(self._attempt(), usage=Usage(), cost_nanos=0, status=503))
        is_agent, has_own_id = self._random.random() < 0.5, self._random.random() < 0.25
        record = UsageRecord(
            id="",
            at_ms=0,
            version=RECORD_VERSION,
            instance=_id(0, 1),
            key_name="backend",
            user_id="",
            service="",
            task_type="general",
            surface="generate",
            client_request_id=_id(0, self._random.getrandbits(80)) if has_own_id else None,
            session=_id(0, self._random.getrandbits(80)) if is_agent else None,
            agent="claude-code" if is_agent else None,
            route="priority",
            outcome=outcome,
            status=200 if outcome in ("ok", "cached") else 502,
            latency_ms=self._random.randrange(200, 9000),
            attempts=attempts,
        )
        if attempts:
            first, last = attempts[0], attempts[-1]
            record.provider, record.model = last.provider, last.model
            record.usage, record.cost_nanos, record.cost_status = first.usage, first.cost_nanos, first.cost_status
        elif outcome == "cached":
            record.provider, record.model, record.cache = "openai", "model-of-openai", "hit"
        return record

    def _attempt(self) -> AttemptRecord:
        provider = self._random.choice(list(PRICES))
        price = PRICES[provider]
        usage = Usage(
            input_tokens=self._random.randrange(50, 8000),
            output_tokens=self._random.randrange(10, 1500),
            cache_read_tokens=self._random.choice((0, 0, 0, 30)),
        )
        return AttemptRecord(
            id=_id(0, self._random.getrandbits(80)),
            provider_id=f"0191bbbb-0000-7000-8000-{len(provider):012d}",
            provider=provider,
            kind="openai",
            model=f"model-of-{provider}",
            started_ms=0,
            upstream_model=f"model-of-{provider}-2026-05-01",
            upstream_request_id=f"req_{self._random.getrandbits(96):024x}",
            status=200,
            finish_reason="stop",
            usage=usage,
            price=price,
            cost_nanos=cost(price, usage),
            cost_status=self._random.choice(("exact", "exact", "exact", "estimated")),
            latency_ms=self._random.randrange(200, 9000),
        )


def _moved(attempt: AttemptRecord, at_ms: int) -> AttemptRecord:
    moved = copy(attempt)
    moved.started_ms = at_ms + 3
    moved.id = _id(moved.started_ms, int(attempt.id[-12:], 16))
    return moved


def _id(at_ms: int, tail: int) -> str:
    """Return a UUIDv7 of that millisecond, in the form of `new_id`."""
    value = (at_ms << 80) | 0x7000_8000_0000_0000_0000 | (tail & 0x0FFF_3FFF_FFFF_FFFF_FFFF)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

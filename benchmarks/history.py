"""Generate a long history of random usage records, and write it to a database through `UsageStore.write`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from copy import copy
from time import perf_counter

import msgspec

from llm_gateway.domain.usage import RECORD_VERSION, AttemptRecord, Outcome, Price, Usage, UsageRecord, cost
from llm_gateway.store.usage import UsageStore

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
SAMPLES = 5000
HOURS_A_BATCH = 6
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

    def __str__(self) -> str:
        return (
            f"{self.records:,} records of {self.days} days, {self.customers:,} customers who call equally often, "
            f"{self.services} services, {len(PRICES)} providers"
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

    def write(self, store: UsageStore, say: Callable[[str], None]) -> float:
        """Write the whole history and build its blocks. Returns the seconds that took."""
        began = said = perf_counter()
        done = 0
        for batch in self._batches():
            store.write(batch)
            done += len(batch)
            if perf_counter() - said > SAY_EVERY_S:
                said = perf_counter()
                left = (said - began) / done * (self.shape.records - done)
                say(f"  {done:,} of {self.shape.records:,} records written, {left:.0f} s left")
        say(f"  {done:,} of {self.shape.records:,} records written")
        while store.build_block(self.end_ms - HOUR_MS):
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
            records.append(record)
        return records

    def _batches(self) -> Iterator[list[UsageRecord]]:
        shape = self.shape
        step_ms = HOURS_A_BATCH * HOUR_MS
        starts = range(self.end_ms - shape.days * DAY_MS, self.end_ms, step_ms)
        for number, start in enumerate(starts):
            count = shape.records * (number + 1) // len(starts) - shape.records * number // len(starts)
            yield self.made_at([start + place * step_ms // count for place in range(count)])

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

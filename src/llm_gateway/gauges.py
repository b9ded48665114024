"""Prometheus gauges read at each scrape: requests in flight, circuit breakers, the usage journal's backlog."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TypeAlias

from llm_gateway.domain.catalog import Snapshot
from llm_gateway.journal.shipper import Shipper
from llm_gateway.worker.app import Worker

Gauge: TypeAlias = tuple[str, str, dict[str, str], float]
"""Name, help text, labels, value."""

BREAKER_VALUE = {"closed": 0.0, "half_open": 0.5, "open": 1.0}


def call_gauges(worker: Worker, snapshot: Snapshot, loop: asyncio.AbstractEventLoop) -> Iterator[Gauge]:
    """Yield the gauges of the data plane: requests in flight, event-loop tasks, circuit breakers."""
    yield "llm_gateway_requests_in_flight", "Requests being served", {}, worker.in_flight.count
    tasks = len(asyncio.all_tasks(loop))
    yield "llm_gateway_tasks", "Tasks of the event loop, which come and go with requests", {}, tasks
    names = {p.id: p.name for p in snapshot.providers.values()}
    for (provider_id, model), state in worker.availability.states().items():
        labels = {"provider": names.get(provider_id, provider_id), "model": model}
        yield "llm_gateway_breaker_open", "1 open, 0.5 half-open, 0 closed", labels, BREAKER_VALUE[state]


def journal_gauges(shipper: Shipper, quarantined: Callable[[], int]) -> Iterator[Gauge]:
    """Yield the size and age of journal entries not yet in the database, and the number of quarantined records.

    `quarantined` returns the number of records that the database rejected.
    """
    behind = shipper.behind()
    yield (
        "llm_gateway_journal_bytes",
        "Bytes written to the usage journal and not yet moved to the database",
        {},
        behind.size,
    )
    yield (
        "llm_gateway_journal_oldest_unshipped_seconds",
        "Age of the oldest entry of the usage journal that is not yet moved to the database, 0 if there is none",
        {},
        behind.seconds,
    )
    yield (
        "llm_gateway_quarantined_records",
        "Lines of journal/quarantine.jsonl: usage records that the database refused",
        {},
        quarantined(),
    )

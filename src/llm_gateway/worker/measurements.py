"""Metrics that a worker measures at each report: requests in flight, cache, limits, circuit breakers, its process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from llm_gateway.domain.catalog import Snapshot
from llm_gateway.domain.metric_families import MetricFamily, Sample, gauge
from llm_gateway.journal.committed_journal import CommittedJournal
from llm_gateway.limiter.base import Limiter
from llm_gateway.worker.app import Worker

BREAKER_VALUE = {"closed": 0.0, "half_open": 0.5, "open": 1.0}
STATM = Path("/proc/self/statm")
"""Sizes of this process in pages (proc(5), Linux)."""


def call_gauges(worker: Worker, snapshot: Snapshot, loop: asyncio.AbstractEventLoop) -> Iterator[MetricFamily]:
    """Yield the gauges of the data plane: requests in flight, tasks, cache, rate limits, breakers."""
    yield gauge("llm_gateway_requests_in_flight", "Requests being served", worker.in_flight.count)
    tasks = len(asyncio.all_tasks(loop))
    yield gauge("llm_gateway_tasks", "Tasks of the event loop, which come and go with requests", tasks)
    yield gauge("llm_gateway_cache_entries", "Answers in the cache", len(worker.cache))
    yield gauge("llm_gateway_cache_bytes", "Memory of the answers in the cache", worker.cache.size_bytes)
    yield _limit_use(worker.limiter, snapshot)
    names = {p.id: p.name for p in snapshot.providers.values()}
    yield MetricFamily(
        name="llm_gateway_breaker_open",
        type="gauge",
        help="1 open, 0.5 half-open, 0 closed",
        samples=[
            Sample("", {"provider": names.get(provider_id, provider_id), "model": model}, BREAKER_VALUE[state])
            for (provider_id, model), state in worker.availability.states().items()
        ],
        is_maximum=True,
    )
    paused = worker.availability.paused_accounts()
    yield MetricFamily(
        name="llm_gateway_provider_paused",
        type="gauge",
        help="1 while a provider is not called, since it refuses its account",
        samples=[Sample("", {"provider": name}, float(each in paused)) for each, name in names.items()],
        is_maximum=True,
    )


def commit_metrics(journal: CommittedJournal, number: int) -> Iterator[MetricFamily]:
    """Yield the metrics of a journal whose records are in the database before their answers."""
    yield gauge(
        "llm_gateway_database_stores_usage",
        "1 if usage is stored before its answers, and calls are made",
        float(journal.can_commit()),
        worker=str(number),
    )
    yield MetricFamily(
        name="llm_gateway_uncommitted_answers",
        type="counter",
        help="Answers that left before their records were in the database",
        samples=[Sample("_total", {}, journal.uncommitted)],
    )


def _limit_use(limiter: Limiter, snapshot: Snapshot) -> MetricFamily:
    """Return the used share of each enabled provider's rate limits, reservations included."""
    samples = []
    for provider in snapshot.providers.values():
        if provider.is_enabled:
            state = limiter.state(provider.id, provider.rate_limit_rpm, provider.rate_limit_tpm)
            for limit, whole, left in (
                ("requests", state.limit_requests, state.remaining_requests),
                ("tokens", state.limit_tokens, state.remaining_tokens),
            ):
                labels = {"provider": provider.name, "limit": limit}
                samples.append(Sample("", labels, 1 - left / whole if whole > 0 else 1.0))
    text = "Used share of a provider's limit of requests and tokens a minute"
    return MetricFamily(
        name="llm_gateway_rate_limit_used_ratio", type="gauge", help=text, samples=samples, is_maximum=True
    )


def process_gauges(number: int) -> Iterator[MetricFamily]:
    """Yield the CPU time and, on Linux, the memory of this worker process."""
    yield MetricFamily(
        name="llm_gateway_worker_cpu_seconds",
        type="counter",
        help="CPU time of the worker process",
        samples=[Sample("_total", {"worker": str(number)}, time.process_time())],
    )
    with contextlib.suppress(OSError):  # another system, or no descriptor is free
        resident = int(STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        text = "Resident memory of the worker process"
        yield gauge("llm_gateway_worker_resident_memory_bytes", text, resident, worker=str(number))

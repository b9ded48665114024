"""Gauges read at each report: requests in flight, circuit breakers, processes, the usage journal's backlog."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from llm_gateway.domain.catalog import Snapshot
from llm_gateway.domain.metric_families import MetricFamily, Sample, gauge

BREAKER_VALUE = {"closed": 0.0, "half_open": 0.5, "open": 1.0}
STATM = Path("/proc/self/statm")
"""Sizes of this process in pages (proc(5), Linux)."""


class Counted(Protocol):
    """The number of requests in flight (`gate.body.InFlight`)."""

    @property
    def count(self) -> int:
        """Requests being served."""
        ...


class Breakers(Protocol):
    """The circuit breakers (`worker.pipeline.availability.ProviderAvailability`)."""

    def states(self) -> Mapping[tuple[str, str], str]:
        """Return the state by (provider id, model)."""
        ...


class MeasuredWorker(Protocol):
    """The parts of a worker (`worker.app.Worker`) that are measured."""

    @property
    def in_flight(self) -> Counted:
        """Requests in flight."""
        ...

    @property
    def availability(self) -> Breakers:
        """Circuit breakers."""
        ...


class Backlog(Protocol):
    """Entries of the journal that are not in the database: bytes, and the age of the oldest in seconds."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    @property
    def seconds(self) -> float:
        """Age of the oldest entry."""
        ...


class MeasuredShipper(Protocol):
    """The part of the shipper (`journal.shipper.Shipper`) that is measured."""

    def behind(self) -> Backlog:
        """Return the backlog."""
        ...


def call_gauges(worker: MeasuredWorker, snapshot: Snapshot, loop: asyncio.AbstractEventLoop) -> Iterator[MetricFamily]:
    """Yield the gauges of the data plane: requests in flight, event-loop tasks, circuit breakers."""
    yield gauge("llm_gateway_requests_in_flight", "Requests being served", worker.in_flight.count)
    tasks = len(asyncio.all_tasks(loop))
    yield gauge("llm_gateway_tasks", "Tasks of the event loop, which come and go with requests", tasks)
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


def process_gauges(number: int) -> Iterator[MetricFamily]:
    """Yield the CPU time and, on Linux, the memory of this worker process."""
    yield MetricFamily(
        name="llm_gateway_worker_cpu_seconds",
        type="counter",
        help="CPU time of the worker process",
        samples=[Sample("_total", {"worker": str(number)}, time.process_time())],
    )
    if STATM.exists():
        resident = int(STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        text = "Resident memory of the worker process"
        yield gauge("llm_gateway_worker_resident_memory_bytes", text, resident, worker=str(number))


def journal_gauges(shipper: MeasuredShipper, quarantined: Callable[[], int]) -> Iterator[MetricFamily]:
    """Yield the size and age of journal entries not yet in the database, and the number of quarantined records.

    `quarantined` returns the number of records that the database rejected.
    """
    behind = shipper.behind()
    yield gauge(
        "llm_gateway_journal_bytes",
        "Bytes written to the usage journal and not yet moved to the database",
        behind.size,
    )
    yield gauge(
        "llm_gateway_journal_oldest_unshipped_seconds",
        "Age of the oldest entry of the usage journal that is not yet moved to the database, 0 if there is none",
        behind.seconds,
    )
    yield gauge(
        "llm_gateway_quarantined_records",
        "Lines of journal/quarantine.jsonl: usage records that the database refused",
        quarantined(),
    )

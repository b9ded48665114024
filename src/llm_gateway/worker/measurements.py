"""Metrics that a worker measures at each scrape: requests in flight, tasks, circuit breakers."""

from __future__ import annotations

import asyncio

from llm_gateway.domain.catalog import Snapshot
from llm_gateway.domain.metric_families import MetricFamily, Sample
from llm_gateway.worker.app import Worker

BREAKER_VALUE = {"closed": 0.0, "half_open": 0.5, "open": 1.0}


def call_families(worker: Worker, snapshot: Snapshot, loop: asyncio.AbstractEventLoop) -> list[MetricFamily]:
    """Return the gauges of the data plane."""
    names = {p.id: p.name for p in snapshot.providers.values()}
    breakers = [
        Sample("", {"provider": names.get(provider_id, provider_id), "model": model}, BREAKER_VALUE[state])
        for (provider_id, model), state in worker.availability.states().items()
    ]
    tasks = len(asyncio.all_tasks(loop))
    return [
        _gauge("llm_gateway_requests_in_flight", "Requests being served", worker.in_flight.count),
        _gauge(
            "llm_gateway_tasks",
            "Tasks of the event loop, which come and go with requests",
            tasks,
        ),
        MetricFamily(
            name="llm_gateway_breaker_open",
            type="gauge",
            help="1 open, 0.5 half-open, 0 closed",
            samples=breakers,
            is_maximum=True,
        ),
    ]


def _gauge(name: str, text: str, value: float) -> MetricFamily:
    return MetricFamily(name=name, type="gauge", help=text, samples=[Sample("", {}, float(value))])

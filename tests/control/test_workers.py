"""Workers behind the channel: changes of the configuration, readiness, sums of their metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llm_gateway.channel.messages import WorkerBeat, encode
from llm_gateway.control.workers import Workers
from llm_gateway.domain.metric_families import MetricFamily, gauge
from llm_gateway.telemetry.failed_authentications import FailedTotals
from llm_gateway.telemetry.report_totals import ReportTotals
from tests.channel.harness import collector, configuration, control, counter, raw_worker, worker
from tests.waiting import until


class Plane:
    """The workers of a control process, and what it logged."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.events: list[tuple[str, dict[str, Any]]] = []


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    totals, failed = ReportTotals(), FailedTotals()

    def on_report(key: str, families: list[MetricFamily]) -> None:
        totals.update(key, failed.take(key, families))

    async with control(tmp_path, on_report=on_report) as running:
        events: list[tuple[str, dict[str, Any]]] = []
        found = Plane(
            Workers(running.server, totals, lambda: [gauge("own", "Own", 7)], list, collector(events), failed)
        )
        found.events = events
        yield found


async def test_a_change_returns_once_all_workers_apply_it(plane: Plane, tmp_path: Path) -> None:
    async with worker(tmp_path, 1) as first, worker(tmp_path, 2) as second:
        await until(lambda: len(plane.workers._channel.workers) == 2)
        await asyncio.to_thread(plane.workers.distribute, configuration("a"))
        assert (first.providers(), second.providers()) == (["a"], ["a"])
        assert (plane.workers.pending(), plane.events) == ([], [])


async def test_a_worker_that_does_not_apply_a_change_is_named_and_logged(plane: Plane, tmp_path: Path) -> None:
    async with worker(tmp_path) as quick, raw_worker(tmp_path):
        await until(lambda: len(plane.workers._channel.workers) == 2)
        await asyncio.to_thread(plane.workers.distribute, configuration("a"))
        assert quick.providers() == ["a"]
        assert plane.workers.pending() == ["worker 9 (process 99)"]
    [(event, fields)] = plane.events
    assert event == "workers do not apply a change yet"
    assert (fields["level"], fields["workers"], fields["version"]) == ("warning", ["worker 9 (process 99)"], 1)


async def test_one_ready_worker_makes_the_gateway_ready(plane: Plane, tmp_path: Path) -> None:
    workers = plane.workers
    assert (workers.are_connected(), workers.are_ready(), workers.can_record()) == (False, False, False)
    async with raw_worker(tmp_path) as (_, writer), raw_worker(tmp_path):
        await until(workers.are_connected)
        assert (workers.are_ready(), workers.can_record()) == (False, False)
        writer.write(encode(WorkerBeat(is_ready=True, can_record=False)))
        await until(workers.are_ready)
        assert not workers.can_record()
        writer.write(encode(WorkerBeat(is_ready=True, can_record=True)))
        await until(workers.can_record)
    await until(lambda: not workers.are_connected())
    assert (workers.are_ready(), workers.can_record()) == (False, False)


async def test_every_worker_knows_that_a_provider_passed_its_test_when_that_is_answered(
    plane: Plane, tmp_path: Path
) -> None:
    async with worker(tmp_path, 1) as first, worker(tmp_path, 2) as second:
        await until(lambda: len(plane.workers._channel.workers) == 2)
        for number in range(20):
            await plane.workers.passed(f"p{number}")
            assert f"p{number}" in first.got
            assert f"p{number}" in second.got


async def test_a_scrape_adds_up_the_workers_and_keeps_the_counts_of_those_that_ended(
    plane: Plane, tmp_path: Path
) -> None:
    async with worker(tmp_path, 1) as first, worker(tmp_path, 2) as second:
        first.report = [counter(3), gauge("open", "Open", 2)]
        second.report = [counter(4), gauge("open", "Open", 5)]
        await until(lambda: len(plane.workers._channel.workers) == 2)
        assert await scrape(plane.workers) == {"calls_total": 7, "open": 7, "own": 7}
        await second.client.close()
        await until(lambda: len(plane.workers._channel.workers) == 1)
        assert await scrape(plane.workers) == {"calls_total": 7, "open": 2, "own": 7}


async def scrape(workers: Workers) -> dict[str, float]:
    """Return the samples without labels, but those of this process itself."""
    body, content_type = await workers.metrics()
    assert content_type.startswith("text/plain")
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if not sample.labels and not sample.name.startswith(("process_", "python_"))
    }

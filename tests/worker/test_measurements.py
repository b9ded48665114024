"""Gauges of a worker process."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from llm_gateway.domain.metric_families import MetricFamily
from llm_gateway.journal.committed_journal import CommittedJournal
from llm_gateway.redis_client.address import parse_address
from llm_gateway.worker.measurements import STATM, commit_metrics, process_gauges
from llm_gateway.worker.shared_redis import SharedRedis


def numbers(families: list[MetricFamily]) -> dict[str, float]:
    return {family.name: sample.value for family in families for sample in family.samples}


def test_a_worker_process_reports_its_cpu_time_and_memory_under_its_number() -> None:
    before = time.process_time()
    families = list(process_gauges(3))
    found = numbers(families)
    assert before <= found["llm_gateway_worker_cpu_seconds"] <= time.process_time()
    assert [sample.labels for family in families for sample in family.samples] == [{"worker": "3"}] * len(families)
    if STATM.exists():
        assert 1_000_000 < found["llm_gateway_worker_resident_memory_bytes"] < 10_000_000_000


async def test_each_metric_of_redis_shows_its_own_count(tmp_path: Path) -> None:
    shared = SharedRedis(parse_address("redis://127.0.0.1:1"), tmp_path, 2, lambda _event, **_: None)
    names = ("trips", "timeouts", "refused", "errors", "reconnects")
    for number, name in enumerate(names, 1):
        setattr(shared._client.counters, name, number)
    families = list(shared.gauges())
    counted = {f"llm_gateway_redis_{name}": number for number, name in enumerate(names, 1)}
    away = {"llm_gateway_redis_connected": 0, "llm_gateway_redis_limits_shared": 0, "llm_gateway_redis_hosts": 1}
    assert numbers(families) == counted | away
    assert {family.name for family in families if family.type == "counter"} == counted.keys()


def test_answers_that_left_before_their_records_were_stored_are_counted() -> None:
    journal = SimpleNamespace(uncommitted=3, can_commit=lambda: False)
    found = numbers(list(commit_metrics(cast(CommittedJournal, journal), 1)))
    assert found == {"llm_gateway_database_stores_usage": 0, "llm_gateway_uncommitted_answers": 3}

"""Gauges of a worker process."""

from __future__ import annotations

import time

from llm_gateway.domain.metric_families import MetricFamily
from llm_gateway.worker.measurements import STATM, process_gauges


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

"""Write metrics for a scrape, with those of the calling process. No other module imports prometheus-client."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest

from llm_gateway.domain.metric_families import MetricFamily
from llm_gateway.telemetry.text_format import text_of


def render(families: Iterable[MetricFamily]) -> bytes:
    """Return the families as text, with memory, CPU and open files of this process."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return text_of(families) + generate_latest(registry)

"""Metrics of the usage journal, which the control process measures at each scrape: its backlog and refused records."""

from __future__ import annotations

from collections.abc import Callable

from llm_gateway.domain.metric_families import MetricFamily, gauge
from llm_gateway.journal.shipper import Shipper


def journal_gauges(shipper: Shipper, quarantined: Callable[[], int]) -> list[MetricFamily]:
    """Return the size and age of journal entries not yet in the database, and the number of quarantined records.

    `quarantined` returns the number of records that the database rejected.
    """
    behind = shipper.behind()
    return [
        gauge(
            "llm_gateway_journal_bytes",
            "Bytes written to the usage journal and not yet moved to the database",
            behind.size,
        ),
        gauge(
            "llm_gateway_journal_oldest_unshipped_seconds",
            "Age of the oldest entry of the usage journal that is not yet moved to the database, 0 if there is none",
            behind.seconds,
        ),
        gauge(
            "llm_gateway_quarantined_records",
            "Lines of journal/quarantine.jsonl: usage records that the database refused",
            quarantined(),
        ),
    ]

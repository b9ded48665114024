"""Metrics of the usage journal, which the control process measures at each scrape: its backlog and refused records."""

from __future__ import annotations

from collections.abc import Callable

from llm_gateway.domain.metric_families import MetricFamily, Sample
from llm_gateway.journal.shipper import Shipper


def journal_families(shipper: Shipper, quarantined: Callable[[], int]) -> list[MetricFamily]:
    """Return the size and age of journal entries not yet in the database, and the number of quarantined records.

    `quarantined` returns the number of records that the database rejected.
    """
    behind = shipper.behind()
    return [
        _gauge("journal_bytes", "Bytes written to the usage journal and not yet moved to the database", behind.size),
        _gauge(
            "journal_oldest_unshipped_seconds",
            "Age of the oldest entry of the usage journal that is not yet moved to the database, 0 if there is none",
            behind.seconds,
        ),
        _gauge(
            "quarantined_records",
            "Lines of journal/quarantine.jsonl: usage records that the database refused",
            quarantined(),
        ),
    ]


def _gauge(name: str, text: str, value: float) -> MetricFamily:
    return MetricFamily(name=f"llm_gateway_{name}", type="gauge", help=text, samples=[Sample("", {}, float(value))])

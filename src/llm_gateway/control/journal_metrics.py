"""Metrics of the usage journal that control measures at each scrape: backlog, disk space and refused records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llm_gateway.domain.metric_families import MetricFamily, gauge
from llm_gateway.journal.segments import disk_bytes
from llm_gateway.journal.shipper import Shipper


def journal_gauges(root: Path, shipper: Shipper, quarantined: Callable[[], int]) -> list[MetricFamily]:
    """Return size and age of journal entries not yet in the database, disk space, and number of quarantined records.

    `root` is the journal's directory; `quarantined` returns the number of records that the database rejected.
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
            "llm_gateway_journal_disk_bytes",
            "Disk space of the usage journal's files, with spare and free segments and copies of damaged ones",
            disk_bytes(root),
        ),
        gauge(
            "llm_gateway_quarantined_records",
            "Lines of journal/quarantine.jsonl: usage records that the database refused",
            quarantined(),
        ),
    ]

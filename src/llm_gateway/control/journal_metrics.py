"""Metrics of the usage journal that control measures at each scrape: backlog, disk space and refused records."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from llm_gateway.domain.metric_families import MetricFamily, gauge
from llm_gateway.journal.segments import disk_bytes
from llm_gateway.journal.shipper import Shipper

StatVfs = Callable[[Path], os.statvfs_result]


def journal_gauges(
    root: Path, shipper: Shipper, quarantined: Callable[[], int], statvfs: StatVfs = os.statvfs
) -> list[MetricFamily]:
    """Return size and age of journal entries not yet in the database, disk space, and number of quarantined records.

    `root` is the journal's directory; `quarantined` returns the number of records that the database rejected,
    `statvfs` what the journal's file system holds.
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
        *_file_system(root, statvfs),
        gauge(
            "llm_gateway_quarantined_records",
            "Lines of journal/quarantine.jsonl: usage records that the database refused",
            quarantined(),
        ),
    ]


def _file_system(root: Path, statvfs: StatVfs) -> Iterator[MetricFamily]:
    """Yield what the gateway may still write to the journal's file system, and the size of that."""
    with contextlib.suppress(OSError):  # the disk is away; llm_gateway_journal_writable tells
        found = statvfs(root)
        text = "Space of the journal's file system that the gateway's user may still write to"
        yield gauge("llm_gateway_journal_filesystem_available_bytes", text, found.f_bavail * found.f_frsize)
        text = "Size of the journal's file system"
        yield gauge("llm_gateway_journal_filesystem_size_bytes", text, found.f_blocks * found.f_frsize)

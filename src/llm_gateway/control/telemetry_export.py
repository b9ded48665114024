"""The OTLP export as a part of the control process: the record feed from the start on, the exporter beside requests."""

from __future__ import annotations

import os
from collections.abc import Callable
from urllib.parse import urlsplit

from llm_gateway.control.otlp.batch import Encoder, Resource
from llm_gateway.control.otlp.exporter import Exporter
from llm_gateway.domain.catalog import Snapshot
from llm_gateway.domain.metric_families import MetricFamily
from llm_gateway.errors import ConfigurationError
from llm_gateway.journal.other_reader import NO_READER, OtherReader
from llm_gateway.journal.record_feed import RecordFeed, drop_feed
from llm_gateway.journal.throttle import Throttle
from llm_gateway.provider_calls.collector import Collector
from llm_gateway.settings import Settings

WORK_S, REST_S = 0.002, 0.001
"""Seconds that reading and encoding work between two sleeps, and of each sleep, as for shipping."""
PORTS = {"https": 443, "http": 80}


class TelemetryExport:
    """The export, or its absence: without an endpoint nothing is read, kept or sent.

    `other` is the reader of the journals beside the shipper. Create it before anything is shipped, so that nothing is
    freed before it is read.
    """

    def __init__(self, settings: Settings, log: Callable[..., None]) -> None:
        """Open the record feed; without an endpoint, delete what an earlier gateway kept for it.

        A journal that cannot be read is left to the check of the journal, which says so.

        Raises:
            ConfigurationError: that cannot be deleted.
        """
        self._settings = settings
        self._log = log
        self._exporter: Exporter | None = None
        self._collector: Collector | None = None
        self._feed: RecordFeed | None = None
        data_dir = settings.data_dir.absolute()
        if settings.otlp_endpoint:
            self._feed = RecordFeed(data_dir, pause=Throttle(work_s=WORK_S, rest_s=REST_S))
            return
        if not os.access(data_dir / "journal", os.R_OK | os.X_OK):
            return
        try:
            if dropped := drop_feed(data_dir):
                log("telemetry that was not exported is dropped, since no endpoint is set", journals=dropped)
        except OSError as error:
            raise ConfigurationError(
                f"Journals in {data_dir / 'journal'} that are not needed any more cannot be deleted ({error.strerror}):"
                " make the directory writable."
            ) from error

    @property
    def other(self) -> OtherReader:
        """The reader of the journals beside the shipper."""
        return NO_READER if self._feed is None else self._feed

    def open(self, snapshot: Callable[[], Snapshot]) -> None:
        """Make the exporter; `snapshot` returns the configuration in force."""
        settings = self._settings
        if self._feed is None:
            return
        self._collector = Collector(settings.otlp_endpoint, settings.otlp_header_fields)
        encoder = Encoder(
            Resource(settings.env, settings.name_of_host),
            settings.otlp_signal_names,
            settings.trace_ratio,
            Addresses(snapshot),
            log=self._log,
            pause=Throttle(work_s=WORK_S, rest_s=REST_S),
        )
        self._exporter = Exporter(self._feed, encoder, self._collector.post, self._log)

    async def run(self) -> None:
        """Export until cancelled; returns at once without an endpoint."""
        if self._exporter is not None:
            await self._exporter.run()

    async def close(self) -> None:
        """Send what is left, in a short time. Call it once the shipper has stopped."""
        if self._exporter is not None:
            await self._exporter.close()
        if self._collector is not None:
            self._collector.close()

    def counters(self) -> list[MetricFamily]:
        """Return what was exported so far; nothing without an endpoint."""
        return [] if self._exporter is None else self._exporter.counters()

    def gauges(self) -> list[MetricFamily]:
        """Return the state of the export; nothing without an endpoint."""
        return [] if self._exporter is None else self._exporter.gauges()


class Addresses:
    """Hosts and ports of providers by their names, from the configuration in force."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._read: Snapshot | None = None
        self._found: dict[str, tuple[str, int]] = {}

    def __call__(self, provider: str) -> tuple[str, int] | None:
        """Return host and port of a provider; None for one that is not configured, or has no URL."""
        snapshot = self._snapshot()
        if snapshot is not self._read:
            targets = {each.name: each.target for each in snapshot.providers.values()}
            self._found = {own: found for own, target in targets.items() if target and (found := _split(target.root))}
            self._read = snapshot
        return self._found.get(provider)


def _split(url: str) -> tuple[str, int] | None:
    parts = urlsplit(url)
    return None if parts.hostname is None else (parts.hostname, parts.port or PORTS.get(parts.scheme, 443))

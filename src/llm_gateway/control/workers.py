"""Workers as the control plane sees them: who applies which configuration, who accepts requests, what they count."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from llm_gateway.channel.roster import ConnectedWorker
from llm_gateway.channel.server import ChannelServer
from llm_gateway.control.trouble import Trouble
from llm_gateway.domain.configuration import Configuration
from llm_gateway.domain.metric_families import MetricFamily, Sample
from llm_gateway.telemetry.exposition import render
from llm_gateway.telemetry.failed_authentications import FailedCount, FailedTotals
from llm_gateway.telemetry.report_totals import ReportTotals
from llm_gateway.telemetry.text_format import METRICS_CONTENT_TYPE

APPLIED_S = 1.0
"""Seconds that a change of the configuration waits until all workers apply it."""
RESTING = {"llm_gateway_breaker_open": "provider.breaker_open", "llm_gateway_provider_paused": "provider.paused"}
"""Gauges that are 1 while something is not called, and the events that they are."""
LIMITS_USED = "llm_gateway_rate_limit_used_ratio"
REPORTS_S = 1.0
"""Seconds that a scrape of the metrics waits for the workers' counts."""


class Workers:
    """All workers, behind the channel.

    `totals` and `failed` get their reports. `own_gauges` returns what the control process measures itself, `own_counts`
    what it counts.
    """

    def __init__(
        self,
        channel: ChannelServer,
        totals: ReportTotals,
        own_gauges: Callable[[], list[MetricFamily]],
        own_counts: Callable[[], list[MetricFamily]],
        log: Callable[..., None],
        failed: FailedTotals,
    ) -> None:
        self._failed = failed
        self._channel = channel
        self._totals = totals
        self._own_gauges = own_gauges
        self._own_counts = own_counts
        self._own_key = f"control-{time.time_ns()}"
        self._log = log
        self._version = 0
        self._newest = Configuration()
        self._publishing = threading.Lock()

    async def start(self) -> None:
        """Accept the workers' connections."""
        await self._channel.start()

    async def stop(self) -> None:
        """End the workers' connections."""
        await self._channel.stop()

    def announce_leaving(self) -> None:
        """Tell all workers that another control process takes the place of this one in a moment."""
        self._channel.announce_leaving()

    def distribute(self, configuration: Configuration) -> None:
        """Send a configuration to all workers, and wait in this thread until all living ones apply it, or a second."""
        with self._publishing:
            self._newest = configuration
            self._version = version = self._channel.publish(configuration)
        self._wait_applied(version)

    def _wait_applied(self, version: int) -> None:
        late = self._channel.wait_applied(version, APPLIED_S)
        if late:
            self._log("workers do not apply a change yet", level="warning", workers=late, version=version)

    def pending(self) -> Sequence[str]:
        """Return the names of the workers that do not apply the newest configuration yet."""
        return [worker.name for worker in self._channel.workers if worker.version < self._version]

    async def passed(self, provider_id: str) -> None:
        """Tell all workers that a provider has passed its test, and wait until all living ones call it again.

        The configuration is sent again behind it, since workers say when they apply one.
        """
        with self._publishing:
            self._channel.passed(provider_id)
            self._version = version = self._channel.publish(self._newest)
        await asyncio.to_thread(self._wait_applied, version)

    def are_connected(self) -> bool:
        """Return whether any worker is connected."""
        return any(worker.is_connected for worker in self._channel.workers)

    def are_ready(self) -> bool:
        """Return whether any worker accepts requests."""
        return any(worker.is_ready for worker in self._connected())

    def can_record(self) -> bool:
        """Return whether any worker can write its journal."""
        return any(worker.can_record for worker in self._connected())

    def troubles(self) -> list[Trouble]:
        """Return journals that cannot be written, and models and accounts that are not called, as workers said last."""
        found: dict[tuple[str, str], Trouble] = {}
        for worker in self._connected():
            if worker.is_ready and not worker.can_record:
                name = f"worker {worker.number}"
                found["journal.unwritable", name] = Trouble("journal.unwritable", name, {"worker": name})
            for family in self._totals.last(worker.key):
                kind = RESTING.get(family.name)
                for sample in family.samples if kind is not None else ():
                    if kind is not None and sample.value == 1:
                        subject = " ".join(sample.labels.values())
                        found[kind, subject] = Trouble(kind, subject, dict(sample.labels))
        return list(found.values())

    def limits_used(self) -> dict[str, dict[str, float]]:
        """Return the used share of each provider's limits, by its name and the limit, as workers said last."""
        found: dict[str, dict[str, float]] = {}
        for worker in self._connected():
            for family in self._totals.last(worker.key):
                for sample in family.samples if family.name == LIMITS_USED else ():
                    limits = found.setdefault(sample.labels["provider"], {})
                    limits[sample.labels["limit"]] = max(sample.value, limits.get(sample.labels["limit"], 0.0))
        return found

    @property
    def newest_version(self) -> int:
        """The version of the newest configuration."""
        return self._version

    def connected(self) -> list[ConnectedWorker]:
        """Return the workers that are connected, by number."""
        return sorted(self._connected(), key=lambda worker: worker.number)

    def measured(self) -> list[MetricFamily]:
        """Return what the control process itself measures and counts."""
        return [*self._own_gauges(), *self._own_counts()]

    async def metrics(self) -> tuple[bytes, str]:
        """Return all metrics in Prometheus' text format, added up over the workers, and the content type."""
        await self._channel.ask_reports(REPORTS_S)
        self._totals.update(self._own_key, self._own_counts())
        living = {worker.key for worker in self._connected()}
        families = [*self._totals.total(living), self._versions(), *self._own_gauges()]
        return render(families), METRICS_CONTENT_TYPE

    def count_failed_sign_in(self, address: str) -> None:
        """Count a sign-in at the dashboard with a wrong key."""
        self._failed.count(address)

    async def failed_authentications(self) -> list[tuple[str, FailedCount]]:
        """Return failed authentications by the client's address, most first."""
        await self._channel.ask_reports(REPORTS_S)
        return self._failed.counts()

    def _versions(self) -> MetricFamily:
        """Return the versions of the newest configuration and of those in force."""
        versions = {"control": self._version} | {worker.name: worker.version for worker in self._connected()}
        return MetricFamily(
            name="llm_gateway_configuration_version",
            type="gauge",
            help="Version of the newest configuration (of control), and of those that workers apply",
            samples=[Sample("", {"process": name}, version) for name, version in versions.items()],
        )

    def _connected(self) -> Iterable[ConnectedWorker]:
        return (worker for worker in self._channel.workers if worker.is_connected)

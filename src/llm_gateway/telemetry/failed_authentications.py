"""Count requests without a valid key by the client's address: in each worker, and their sum in the control process.

Memory is bounded: beyond `MOST_ADDRESSES`, new addresses are counted together as `other`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from llm_gateway import wall_clock
from llm_gateway.domain.metric_families import MetricFamily, Sample

NAME = "failed_authentications"
"""Family with the counts on their way to control; no metric, since each address would be a time series."""
MOST_ADDRESSES = 1024
OTHER = "other"
UNKNOWN = "unknown"
"""Stands for the address of a client that has none."""
KEPT = 64
"""Workers whose last counts are known, so that their next report adds only what is new."""


class FailedCount(NamedTuple):
    """Number of failed authentications from an address, and when the last one was (seconds since 1970)."""

    number: int
    last_s: float


class FailedAuthentications:
    """Counts by address. `clock` returns seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = wall_clock.now_s) -> None:
        self._clock = clock
        self.counts: dict[str, FailedCount] = {}

    def count(self, address: str | None) -> None:
        """Count one failed authentication."""
        self.add(address or UNKNOWN, FailedCount(1, self._clock()))

    def add(self, address: str, more: FailedCount) -> None:
        """Add failed authentications from an address."""
        known = self.counts.get(address)
        if known is None and len(self.counts) >= MOST_ADDRESSES:
            address = OTHER
            known = self.counts.get(OTHER)
        before = known or FailedCount(0, 0.0)
        self.counts[address] = FailedCount(before.number + more.number, max(before.last_s, more.last_s))

    def family(self) -> MetricFamily:
        """Return the counts, to be sent to control."""
        samples = []
        for address, (number, last_s) in self.counts.items():
            samples += [Sample("_total", {"address": address}, number), Sample("_last", {"address": address}, last_s)]
        return MetricFamily(name=NAME, type="counter", help="Failed authentications", samples=samples)


class FailedTotals:
    """The sum over all workers since control started. Used in one thread."""

    def __init__(self) -> None:
        self._sum = FailedAuthentications()
        self._last: dict[str, dict[str, int]] = {}

    def take(self, worker: str, families: Iterable[MetricFamily]) -> list[MetricFamily]:
        """Add what is new in a worker's report. Returns the report's other families."""
        rest = []
        for family in families:
            if family.name == NAME:
                self._add(worker, family)
            else:
                rest.append(family)
        return rest

    def count(self, address: str | None) -> None:
        """Count one failed authentication in the control process itself: a sign-in at the dashboard."""
        self._sum.count(address)

    def counts(self) -> list[tuple[str, FailedCount]]:
        """Return the counts by address, most first."""
        return sorted(self._sum.counts.items(), key=lambda each: (-each[1].number, each[0]))

    def _add(self, worker: str, family: MetricFamily) -> None:
        known = self._last.pop(worker, {})
        now = {each.labels["address"]: int(each.value) for each in family.samples if each.suffix == "_total"}
        times = {each.labels["address"]: each.value for each in family.samples if each.suffix == "_last"}
        for address, count in now.items():
            more = count - known.get(address, 0)
            if more > 0:
                self._sum.add(address, FailedCount(more, times.get(address, 0.0)))
        self._last[worker] = now  # at the end: the first one is the oldest
        while len(self._last) > KEPT:
            del self._last[next(iter(self._last))]

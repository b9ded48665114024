"""Reports of the last days: from the rollups for keys that see all, else from the sums that have keys and teams."""

from __future__ import annotations

from collections.abc import Mapping

from llm_gateway.errors import Invalid
from llm_gateway.store.report_dimensions import DIMENSION_BY_NAME
from llm_gateway.store.rollups import Totals
from llm_gateway.store.usage import CustomerTotals, NamedTotals, UsageStore, recent_period
from llm_gateway.store.usage_reports import MOST_RECORD_DAYS, Grouping, UsageReports

Filters = Mapping[str, str] | None
"""A key or a team whose requests alone are shown; None: all requests."""


class RecentUsage:
    """The reports; `filters` narrow each, and rows come in the order of cost, then of requests, highest first."""

    def __init__(self, store: UsageStore, reports: UsageReports) -> None:
        self._store = store
        self._reports = reports

    def summary(self, days: int, now_ms: int, filters: Filters) -> Totals:
        """Return the totals of the period."""
        if filters is None:
            return self._store.summary(days, now_ms)
        return self._reports.totals(Grouping((), filters), recent_period(days, now_ms)).get((), Totals())

    def by_provider(self, days: int, now_ms: int, filters: Filters) -> list[NamedTotals]:
        """Return the totals of each provider."""
        return self._store.by_provider(days, now_ms) if filters is None else self._by("provider", days, now_ms, filters)

    def by_service(self, days: int, now_ms: int, filters: Filters) -> list[NamedTotals]:
        """Return the totals of each calling service."""
        return self._store.by_service(days, now_ms) if filters is None else self._by("service", days, now_ms, filters)

    def by_customer(self, days: int, now_ms: int, filters: Filters, limit: int) -> list[CustomerTotals]:
        """Return the totals of the first customers.

        Raises:
            Invalid: the requests of one key or team are to be summed over more than 7 days.
        """
        if filters is None:
            return self._store.by_customer(days, now_ms, limit)
        if days >= MOST_RECORD_DAYS:
            raise Invalid(
                f"The customers of one key or team are summed from their records, at most {MOST_RECORD_DAYS - 1} days: "
                f"ask with days={MOST_RECORD_DAYS - 1}."
            )
        rows = self._by("customer", days, now_ms, filters)[:limit]
        return [CustomerTotals(row.name, row.totals.requests, row.totals.cost_nanos) for row in rows]

    def _by(self, dimension: str, days: int, now_ms: int, filters: Mapping[str, str]) -> list[NamedTotals]:
        grouping = Grouping((DIMENSION_BY_NAME[dimension],), filters)
        found = self._reports.totals(grouping, recent_period(days, now_ms))
        rows = [NamedTotals(name, totals) for (name,), totals in found.items() if name and totals != Totals()]
        return sorted(rows, key=lambda row: (-row.totals.cost_nanos, -row.totals.requests, row.name))

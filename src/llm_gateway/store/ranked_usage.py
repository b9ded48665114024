"""Pages of a usage report, the groups that cost most first, each with what it cost in the period before.

There can be ten thousand customers and a page shows two hundred: the database finds these by two counters, and only
their rows are summed in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import NamedTuple

import msgspec
from sqlalchemy.engine import Connection

from llm_gateway.store.cube_periods import Part
from llm_gateway.store.last_days import LastDays
from llm_gateway.store.named_sums import NamedSums
from llm_gateway.store.record_sums import Group
from llm_gateway.store.report_dimensions import DIMENSION_BY_NAME
from llm_gateway.store.rollup_table import RANKED_BY, RollupTable
from llm_gateway.store.rollups import CUSTOMER, HOUR_MS, Totals
from llm_gateway.store.usage_reports import READ_LIMIT_S, Grouping, UsageReports

MOST_LISTED = 5_000
"""Customers of a page whose rows are found one by one; of more, whole buckets are read as fast."""


class RankedPage(NamedTuple):
    """Groups with their totals and those of the period before, of which only requests and cost are known.

    `totals` and `totals_before` are those of all groups.
    """

    rows: Sequence[tuple[Group, Totals, Totals]]
    totals: Totals
    totals_before: Totals
    has_more: bool


class RankedUsage:
    """Pages of the reports."""

    def __init__(self, reports: UsageReports) -> None:
        self._reports = reports
        self._database = reports.database
        rollups = RollupTable(reports.database)
        self._rollups = LastDays(reports.database, rollups)
        self._sums = NamedSums(reports.database, rollups)

    def page(self, grouping: Grouping, period: Part, before: Part, start: int, limit: int) -> RankedPage:
        """Return `limit` groups from the place `start` on, by cost, then by requests, highest first.

        Raises:
            Invalid: as `UsageReports.totals`.
            StoreUnavailable: older records are not summed yet.
        """
        is_by_customer = grouping.dimensions == (DIMENSION_BY_NAME["customer"],) and not grouping.filters
        if is_by_customer and limit <= MOST_LISTED and not any(edge % HOUR_MS for edge in (*period, *before)):
            with self._database.read(READ_LIMIT_S) as connection:
                return self._of_customers(connection, period, before, start, limit)
        sums = {group: totals for group, totals in self._reports.totals(grouping, period).items() if totals != Totals()}
        earlier = self._reports.totals(msgspec.structs.replace(grouping, counters=RANKED_BY), before)
        ranked = sorted(sums, key=lambda group: (-sums[group].cost_nanos, -sums[group].requests, group))
        rows = [(group, sums[group], earlier.get(group, Totals())) for group in ranked[start : start + limit]]
        return RankedPage(rows, _total(sums.values()), _total(earlier.values()), start + limit < len(ranked))

    def _of_customers(self, connection: Connection, period: Part, before: Part, start: int, limit: int) -> RankedPage:
        found = self._rollups.largest(connection, CUSTOMER, period, start, limit + 1)
        shown = dict(list(found.items())[:limit])
        sums, earlier = self._sums.totals(connection, CUSTOMER, shown, [period, before])
        totals, totals_before = (self._rollups.summary(connection, each) for each in (period, before))
        rows = [((name,), sums.get(each, Totals()), earlier.get(each, Totals())) for each, name in shown.items()]
        return RankedPage(rows, totals, totals_before, len(found) > limit)


def _total(sums: Iterable[Totals]) -> Totals:
    return reduce(Totals.plus, sums, Totals())

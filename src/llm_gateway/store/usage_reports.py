"""Usage reports by one or two dimensions over any period, as totals by group.

    period   ──┬──────────┬───────────────┬──────────┬──
               │ records  │  hours, days  │ records  │
               start      full hour       full hour  end

Whole hours come from stored sums: the cube for its dimensions, the rollups for customers. Parts of hours, other
dimensions and their combinations are summed from records.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.errors import Invalid, StoreUnavailable
from llm_gateway.store.attempts_json import AttemptTexts
from llm_gateway.store.cube_periods import Part
from llm_gateway.store.cube_reader import CubeQuery, CubeReader, check_number
from llm_gateway.store.database import Database
from llm_gateway.store.named_sums import NamedSums
from llm_gateway.store.record_sums import Group, RecordSums
from llm_gateway.store.report_dimensions import DIMENSION_BY_NAME, ReportDimension, Source, tag_dimension
from llm_gateway.store.rollup_table import RollupTable, number_of
from llm_gateway.store.rollups import COUNTERS, CUSTOMER, DAY, DAY_MS, HOUR_MS, Totals
from llm_gateway.store.tables import api_keys, teams, usage_cube, usage_cube_fill, usage_records
from llm_gateway.store.usage import time_of

MOST_RECORD_DAYS = 7
"""Days of a report that is summed from records."""

MOST_GROUPS = 200_000
"""Maximum number of groups of a report, which are in memory together."""

MOST_VALUES = 1_000_000
"""Maximum number of totals of a series: those of each group in each part, which take some hundred bytes each."""

READ_LIMIT_S = 20.0

NAMED: Mapping[str, sa.Table] = {"key": api_keys, "team": teams}
"""Dimensions whose values are ids, with the tables of their names."""


class Grouping(msgspec.Struct, frozen=True):
    """The dimensions of a report, none to two, and exact values by the name of a dimension that requests must have.

    `counters` are those that are wanted: the others of the totals can be 0.
    """

    dimensions: tuple[ReportDimension, ...] = ()
    filters: Mapping[str, str] = {}
    counters: tuple[str, ...] = COUNTERS

    @property
    def cube_query(self) -> CubeQuery:
        """The query of the cube, if that is the source."""
        return CubeQuery(tuple(each.name for each in self.dimensions), tuple(self.filters.items()), self.counters)

    @property
    def source(self) -> Source:
        """The stored sums that have all dimensions and filters."""
        used = [*self.dimensions, *(DIMENSION_BY_NAME[name] for name in self.filters)]
        sources = {dimension.source for dimension in used}
        if sources <= {Source.CUBE}:
            return Source.CUBE
        return Source.CUSTOMERS if sources == {Source.CUSTOMERS} else Source.RECORDS


class UsageReports:
    """Reports over rollups, cube and records. `most_values` is the maximum number of totals of a series."""

    def __init__(self, database: Database, most_values: int = MOST_VALUES) -> None:
        self._most_values = most_values
        self.database = database
        self._rollups = RollupTable(database)
        self._named = NamedSums(database, self._rollups)
        self.cube = CubeReader(database, most_values)
        self._records = RecordSums(AttemptTexts(database))

    def tag(self, name: str) -> ReportDimension:
        """Return the dimension over the values of one tag."""
        return tag_dimension(name, is_sqlite=self.database.is_sqlite)

    def names(self, dimension: str, values: Collection[str]) -> dict[str, str]:
        """Return the names of those values of a dimension that are ids of keys or teams; deleted ones have none."""
        if dimension not in NAMED or not values:
            return {}
        table = NAMED[dimension]
        query = sa.select(table.c.id, table.c.name).where(table.c.id.in_(sorted(values)))
        with self.database.read() as connection:
            return {row.id: row.name for row in connection.execute(query)}

    def totals(self, grouping: Grouping, period: Part) -> dict[Group, Totals]:
        """Return the totals by group of a period.

        Raises:
            Invalid: the report would be summed from records of more than 7 days, or has too many groups.
            StoreUnavailable: older records are not summed yet.
        """
        return self.series(grouping, [period])[0]

    def series(self, grouping: Grouping, parts: Sequence[Part]) -> list[dict[Group, Totals]]:
        """Return the totals by group of each part; parts follow each other without gaps. Raises as `totals`."""
        with self.database.read(READ_LIMIT_S) as connection:
            self.check(connection, grouping, (parts[0][0], parts[-1][1]))
            if grouping.source is Source.RECORDS:
                return self._few(self._of_records(connection, grouping, part) for part in parts)
            found = self._of_sums(connection, grouping, parts)
            for sums, part in zip(found, parts, strict=True):
                for fringe in _fringes(part):
                    _add(sums, self._of_records(connection, grouping, fringe).items())
            return found

    def _of_records(self, connection: Connection, grouping: Grouping, part: Part) -> dict[Group, Totals]:
        return _bounded(self._records.sums(connection, grouping.dimensions, grouping.filters, part))

    def _of_sums(self, connection: Connection, grouping: Grouping, parts: Sequence[Part]) -> list[dict[Group, Totals]]:
        whole = [_whole_hours(part) for part in parts]
        if grouping.source is Source.CUSTOMERS:
            if "customer" in grouping.filters:
                return self._of_customer(connection, grouping, whole)
            sums = (self._rollups.names_and_sums(connection, CUSTOMER, each) for each in whole)
            return self._few(_bounded({(name,): totals for name, totals in each.items()}) for each in sums)
        return self.cube.named(connection, self.cube.totals(connection, grouping.cube_query, whole))

    def _of_customer(
        self, connection: Connection, grouping: Grouping, parts: Sequence[Part]
    ) -> list[dict[Group, Totals]]:
        name = grouping.filters["customer"]
        number = number_of(connection, CUSTOMER, name)
        if number is None:
            return [{} for _ in parts]
        group = (name,) * len(grouping.dimensions)
        sums = self._named.totals(connection, CUSTOMER, [number], parts)
        return self._few({group: each[number]} if each else {} for each in sums)

    def _few(self, parts: Iterable[dict[Group, Totals]]) -> list[dict[Group, Totals]]:
        """Return the totals of all parts.

        Raises:
            Invalid: there are too many.
        """
        found: list[dict[Group, Totals]] = []
        number = 0
        for part in parts:
            found.append(part)
            number += len(part)
            check_number(number, self._most_values)
        return found

    def check(self, connection: Connection, grouping: Grouping, period: Part) -> None:
        """Check that stored sums or few records have a report. Raises as `totals`."""
        start_ms, end_ms = period
        source = grouping.source
        if source is Source.RECORDS and end_ms - start_ms > (MOST_RECORD_DAYS * 24 + 1) * HOUR_MS:
            cube = ", ".join(name for name, each in DIMENSION_BY_NAME.items() if each.source is Source.CUBE)
            raise Invalid(
                f"Sessions, tags, and customers together with another dimension are summed from records, for at most "
                f"{MOST_RECORD_DAYS} days: choose a later from or an earlier to. Longer periods take up to two of "
                f"{cube}, or customer alone.",
                loc=("query", "group_by"),
            )
        if source is not Source.RECORDS and any(edge % HOUR_MS for edge in period):
            oldest = connection.execute(sa.select(usage_records.c.id).order_by(usage_records.c.id).limit(1)).scalar()
            if (
                oldest is not None
                and start_ms < time_of(oldest) // HOUR_MS * HOUR_MS
                and self._had_usage(connection, start_ms)
            ):
                raise Invalid(
                    "Of the time before the oldest stored record only sums of full hours UTC are kept: choose a later "
                    "from, or a time zone that is whole hours from UTC.",
                    loc=("query", "from"),
                )
        if source is Source.CUBE:
            filling = connection.execute(sa.select(usage_cube_fill.c.filled, usage_cube_fill.c.until)).first()
            if filling is not None and filling.filled < filling.until and start_ms <= time_of(filling.until):
                raise StoreUnavailable(
                    "Usage from before the upgrade is still being summed: try again later, or choose a later from.",
                    retry_after_s=60,
                )

    def _had_usage(self, connection: Connection, at_ms: int) -> bool:
        """Return True if the day of this moment has requests."""
        query = sa.select(usage_cube.c.bucket).where(
            usage_cube.c.hours == DAY.hours, usage_cube.c.bucket == at_ms // DAY_MS
        )
        return connection.execute(query.limit(1)).first() is not None


def _fringes(part: Part) -> list[Part]:
    """Return the parts of hours at both ends."""
    start_ms, end_ms = part
    first, last = _whole_hours(part)
    if first >= last:
        return [part] if start_ms % HOUR_MS or end_ms % HOUR_MS else []
    return [each for each in ((start_ms, first), (last, end_ms)) if each[0] < each[1]]


def _whole_hours(part: Part) -> Part:
    """Return the full hours of a part; the end is before the start if it has none."""
    return -(-part[0] // HOUR_MS) * HOUR_MS, part[1] // HOUR_MS * HOUR_MS


def _added(rows: Iterable[tuple[Group, Totals]]) -> dict[Group, Totals]:
    found: dict[Group, Totals] = {}
    _add(found, rows)
    return found


def _add(sums: dict[Group, Totals], rows: Iterable[tuple[Group, Totals]]) -> None:
    for group, totals in rows:
        known = sums.get(group)
        sums[group] = totals if known is None else known.plus(totals)


def _bounded(sums: dict[Group, Totals]) -> dict[Group, Totals]:
    if len(sums) > MOST_GROUPS:
        raise Invalid(
            f"The report has more than {MOST_GROUPS:,} groups: choose a shorter period, or add a filter.",
            loc=("query", "group_by"),
        )
    return sums

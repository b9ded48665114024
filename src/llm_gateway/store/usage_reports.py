"""Usage reports by one or two dimensions over any period, as totals by group.

    period   ──┬──────────┬───────────────┬──────────┬──
               │ records  │  hours, days  │ records  │
               start      full hour       full hour  end

Whole hours come from stored sums: the cube for its dimensions, the rollups for customers. Parts of hours, other
dimensions and their combinations are summed from records.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.errors import Invalid, StoreUnavailable
from llm_gateway.store.attempts_json import AttemptTexts
from llm_gateway.store.cube import BY_KEY, KEY_DAYS, LONG
from llm_gateway.store.cube_table import LONGEST_NAME
from llm_gateway.store.database import Database
from llm_gateway.store.numbered_texts import NumberedTexts
from llm_gateway.store.record_sums import Group, RecordSums
from llm_gateway.store.report_dimensions import DIMENSION_BY_NAME, ReportDimension, Source, tag_dimension
from llm_gateway.store.rollup_table import SUMS, RollupTable
from llm_gateway.store.rollups import COUNTERS, CUSTOMER, DAY, DAY_MS, HOUR, HOUR_MS, SERVICE, Grain, Totals
from llm_gateway.store.tables import api_keys, teams, usage_cube, usage_cube_fill, usage_names, usage_records
from llm_gateway.store.usage import time_of

MOST_RECORD_DAYS = 7
"""Days of a report that is summed from records."""

MOST_GROUPS = 200_000
"""Maximum number of groups of a report, which are in memory together."""

MOST_VALUES = 1_000_000
"""Maximum number of totals of a series: those of each group in each part, which take some hundred bytes each."""

READ_LIMIT_S = 20.0

KEPT_IN_ORDER = ({"model"}, {"model", "provider"})
"""Dimensions by which SQLite groups the cube's rows of a bucket as they are stored, without sorting them: the first of
its key. Of all buckets together, it would sort them."""

NAMED: Mapping[str, sa.Table] = {"key": api_keys, "team": teams}
"""Dimensions whose values are ids, with the tables of their names."""

Part = tuple[int, int]
"""(start, end) of a part of a period, milliseconds UTC, the end excluded."""


class Grouping(msgspec.Struct, frozen=True):
    """The dimensions of a report, none to two, and exact values by the name of a dimension that requests must have.

    `counters` are those that are wanted: the others of the totals can be 0.
    """

    dimensions: tuple[ReportDimension, ...] = ()
    filters: Mapping[str, str] = {}
    counters: tuple[str, ...] = COUNTERS

    @property
    def is_by_key(self) -> bool:
        """Whether no other dimension than the key is used."""
        return {BY_KEY}.issuperset((*(dimension.name for dimension in self.dimensions), *self.filters))

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
        self._names = NumberedTexts(database, usage_names)
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
            self._check(connection, grouping, (parts[0][0], parts[-1][1]))
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
            name = grouping.filters.get("customer")
            sums = (self._rollups.names_and_sums(connection, CUSTOMER, each, name) for each in whole)
            width = len(grouping.dimensions)
            return self._few(
                _bounded(_added(((name,) * width, totals) for name, totals in each.items())) for each in sums
            )
        if len(whole) == 1:
            return [self._at_once(connection, grouping, whole[0])]
        # The average is below a day if a clock was put forward, or if the last day is not over.
        length_ms = (whole[-1][1] - whole[0][0]) / len(whole)
        if length_ms >= 2 * LONG.ms:
            return self._few(self._at_once(connection, grouping, each) for each in whole)
        return (
            self._by_days(connection, grouping, whole)
            if length_ms > DAY_MS / 2
            else self._by_hours(connection, grouping, whole)
        )

    def _of_services(self, connection: Connection, grouping: Grouping, part: Part) -> dict[Group, Totals] | None:
        """Sum one part from the rollups of services, which are few; None if they do not have the dimensions."""
        by_service = grouping.dimensions == (DIMENSION_BY_NAME["service"],)
        if grouping.filters or (grouping.dimensions and not by_service):
            return None
        found = self._rollups.names_and_sums(connection, SERVICE, part)
        return _added(((name,) if by_service else (), totals) for name, totals in found.items())

    def _at_once(self, connection: Connection, grouping: Grouping, part: Part) -> dict[Group, Totals]:
        """Sum one part as `_by_days` does, but from longer buckets, and let the database add them up."""
        start_ms, end_ms = part
        if start_ms >= end_ms:
            return {}
        of_services = self._of_services(connection, grouping, part)
        if of_services is not None:
            return of_services
        by_bucket = self.database.is_sqlite and {dimension.name for dimension in grouping.dimensions} in KEPT_IN_ORDER
        blocks, days = _blocks_and_days(_nearest_midnight(start_ms) // DAY_MS, _nearest_midnight(end_ms) // DAY_MS)
        found = _added(row[1:] for row in self._of_cube(connection, grouping, LONG, blocks, by_bucket=by_bucket))
        for some in days:
            _add(found, (row[1:] for row in self._of_cube(connection, grouping, DAY, some, by_bucket=by_bucket)))
        for edge, side in ((start_ms, -1), (end_ms, 1)):
            sign, hours = _hours_from_midnight(edge)
            rows = [row[1:] for row in self._of_cube(connection, grouping, HOUR, hours, by_bucket=False)]
            _add(found, rows if sign == side else _negated(rows))
        return found

    def _by_hours(self, connection: Connection, grouping: Grouping, whole: Sequence[Part]) -> list[dict[Group, Totals]]:
        hours = range(whole[0][0] // HOUR_MS, whole[-1][1] // HOUR_MS)
        return _distributed(self._of_cube(connection, grouping, HOUR, hours), whole, HOUR)

    def _by_days(self, connection: Connection, grouping: Grouping, whole: Sequence[Part]) -> list[dict[Group, Totals]]:
        """Sum days (UTC), and add or subtract the few hours between each end of a part and the midnight next to it."""
        rounded = [(_nearest_midnight(start), _nearest_midnight(end)) for start, end in whole]
        days = range(rounded[0][0] // DAY_MS, rounded[-1][1] // DAY_MS)
        found = _distributed(self._of_cube(connection, grouping, DAY, days), rounded, DAY)
        shifts = {edge: _hours_from_midnight(edge) for part in whole for edge in part}
        hours = {hour for _, shift in shifts.values() for hour in shift}
        by_hour: dict[int, list[tuple[Group, Totals]]] = {}
        for hour, group, totals in self._of_cube(connection, grouping, HOUR, hours):
            by_hour.setdefault(hour, []).append((group, totals))
        for sums, part in zip(found, whole, strict=True):
            for edge, side in zip(part, (-1, 1), strict=True):
                sign, shift = shifts[edge]
                rows = [row for hour in shift for row in by_hour.get(hour, ())]
                _add(sums, rows if sign == side else _negated(rows))
        return found

    def _of_cube(
        self,
        connection: Connection,
        grouping: Grouping,
        grain: Grain,
        buckets: Collection[int],
        *,
        by_bucket: bool = True,
    ) -> list[tuple[int, Group, Totals]]:
        """Return (bucket, group, totals); buckets are counted since 1970, and 0 unless `by_bucket`."""
        if not buckets:
            return []
        bucket = usage_cube.c.bucket
        shown: sa.ColumnElement[int] = bucket if by_bucket else sa.literal_column("0")
        numbers = {name: self._number(connection, value) for name, value in grouping.filters.items()}
        columns = [usage_cube.c[dimension.name] for dimension in grouping.dimensions]
        groups = [bucket, *columns] if by_bucket else columns
        query = (
            sa.select(shown, *columns, *(SUMS[counter] for counter in grouping.counters))
            .where(usage_cube.c.hours == (KEY_DAYS if grain is DAY and grouping.is_by_key else grain.hours))
            .where(bucket.between(buckets[0], buckets[-1]) if isinstance(buckets, range) else bucket.in_(buckets))
            .where(*(usage_cube.c[name] == number for name, number in numbers.items()))
        )
        query = query.group_by(*groups) if groups else query
        rows = connection.execute(query.limit(self._most_values + 1)).all()
        self._check_number(len(rows))
        width = 1 + len(columns)
        names = self._names.texts(connection, {number for row in rows for number in row[1:width]})

        counters = grouping.counters
        is_whole = counters == COUNTERS
        found = []
        for row in rows:
            if any(row[width:]):
                totals = Totals(*row[width:]) if is_whole else Totals(**dict(zip(counters, row[width:], strict=True)))
                found.append((row[0], tuple(map(names.__getitem__, row[1:width])), totals))
        return found

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
            self._check_number(number)
        return found

    def _check_number(self, number: int) -> None:
        if number > self._most_values:
            raise Invalid(
                f"The report has more than {self._most_values:,} values: choose a shorter period or a longer bucket, "
                "or add a filter.",
                loc=("query", "group_by"),
            )

    def _number(self, connection: Connection, name: str) -> int:
        query = sa.select(usage_names.c.id).where(usage_names.c.name == name[:LONGEST_NAME])
        return connection.execute(query).scalar() or -1

    def _check(self, connection: Connection, grouping: Grouping, period: Part) -> None:
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


def _nearest_midnight(at_ms: int) -> int:
    return (at_ms + DAY_MS // 2) // DAY_MS * DAY_MS


def _blocks_and_days(first_day: int, end_day: int) -> tuple[range, tuple[range, range]]:
    """Cover days by as many long buckets as lie within them, and by the days before and after."""
    days = LONG.hours // DAY.hours
    blocks = range(-(-first_day // days), end_day // days)
    if not blocks:
        return blocks, (range(first_day, end_day), range(0))
    return blocks, (range(first_day, blocks.start * days), range(blocks.stop * days, end_day))


def _hours_from_midnight(at_ms: int) -> tuple[int, range]:
    """Return the hours between a full hour and the midnight (UTC) next to it; the sign is 1 if the hour is later."""
    hour, midnight = at_ms // HOUR_MS, _nearest_midnight(at_ms) // HOUR_MS
    return (1, range(midnight, hour)) if hour >= midnight else (-1, range(hour, midnight))


def _distributed(
    rows: Iterable[tuple[int, Group, Totals]], parts: Sequence[Part], grain: Grain
) -> list[dict[Group, Totals]]:
    """Add each bucket's totals to the part that it lies in; parts can leave gaps."""
    found: list[dict[Group, Totals]] = [{} for _ in parts]
    starts = [start for start, _ in parts]
    sums_of: dict[int, dict[Group, Totals]] = {}
    for bucket, group, totals in rows:
        sums = sums_of.get(bucket)
        if sums is None:
            at = bisect_right(starts, bucket * grain.ms) - 1
            is_inside = at >= 0 and bucket * grain.ms < parts[at][1]
            sums = sums_of[bucket] = found[at] if is_inside else {}
        known = sums.get(group)
        sums[group] = totals if known is None else known.plus(totals)
    return found


def _added(rows: Iterable[tuple[Group, Totals]]) -> dict[Group, Totals]:
    found: dict[Group, Totals] = {}
    _add(found, rows)
    return found


def _add(sums: dict[Group, Totals], rows: Iterable[tuple[Group, Totals]]) -> None:
    for group, totals in rows:
        known = sums.get(group)
        sums[group] = totals if known is None else known.plus(totals)


def _negated(rows: Iterable[tuple[Group, Totals]]) -> Iterable[tuple[Group, Totals]]:
    return ((group, Totals().minus(totals)) for group, totals in rows)


def _bounded(sums: dict[Group, Totals]) -> dict[Group, Totals]:
    if len(sums) > MOST_GROUPS:
        raise Invalid(
            f"The report has more than {MOST_GROUPS:,} groups: choose a shorter period, or add a filter.",
            loc=("query", "group_by"),
        )
    return sums

"""Read and write the table of usage totals (rollups) per hour, day and block of days.

A row has numbers in the place of texts: of the dimension, of the bucket since 1970, and of the name, which is one of
`usage_customers` or, for services and providers, of `usage_names`.

Every batch of records adds to hours and days. There are thousands of customers per day, so a report would read a
million rows: their days are added up to blocks of 2 days, those to blocks of 4 and so on, once the days of a block are
over. The past days of the newest block of 32 are summed, too, anew each day (TO_DATE). Late records are added to their
block, if it is built, in the same transaction as to their day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy import BigInteger, SmallInteger, func
from sqlalchemy.engine import Connection

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.store.bulk import Pause, adding, no_pause, with_pauses
from llm_gateway.store.customer_sums import CustomerSums
from llm_gateway.store.database import Database
from llm_gateway.store.driver_sql import CompiledQuery, change_rows
from llm_gateway.store.late_days import block_of, late_in_blocks, late_to_date
from llm_gateway.store.numbered_texts import NumberedTexts
from llm_gateway.store.rollup_rows import NO_MINUTES, NUMBERS, UNKNOWN_MINUTES, between, rows_of
from llm_gateway.store.rollups import (
    BLOCKS,
    COUNTERS,
    CUSTOMER,
    DAY,
    HOUR,
    PROVIDER,
    SERVICE,
    TO_DATE,
    Grain,
    Key,
    Stretch,
    Totals,
    coarser,
    cover,
    customer_sums,
)
from llm_gateway.store.set_insert import row_insert
from llm_gateway.store.tables import usage_customers, usage_names, usage_rollups

PARTS = (DAY, *BLOCKS[:-1])
"""Grains whose buckets are added up to those of BLOCKS."""

DAYS_AT_ONCE = 2
"""Days that one call adds to the totals to date, as many as a block has parts."""

MOST_BUCKETS = 512
"""Buckets that one statement looks for."""

COLUMNS = ("dimension", "hours", "bucket", "name", *COUNTERS, "minutes")

SUMS = {name: sa.cast(func.coalesce(func.sum(sa.literal_column(name)), 0), BigInteger).label(name) for name in COUNTERS}
"""SQL expression for the sum of each counter, 0 over no rows. Postgres sums integers to decimals, hence the cast.

Built once: building expressions takes SQLAlchemy longer than the database needs for a small report.
"""


RANKED_BY = ("requests", "cost_nanos")
"""Counters that the order of a report's rows is by."""

_at_ms = attrgetter("at_ms")

NO_KEYS: Mapping[Key, int] = {}

_ADDING = f"{adding(usage_rollups, COUNTERS)}, minutes = usage_rollups.minutes | excluded.minutes"
"""What to do with a row that is there already."""

_Numbers: TypeAlias = Mapping[str, Mapping[str, int]]
"""The number of each name, by dimension."""


class RollupTable:
    """The table usage_rollups. Its methods run in the caller's transaction."""

    def __init__(self, database: Database) -> None:
        self._is_sqlite = database.is_sqlite
        self._insert = row_insert(database, usage_rollups, COLUMNS, _ADDING)
        self._of_batch = None if database.is_sqlite else CustomerSums(COLUMNS, _ADDING, database.dialect)
        self._names = NumberedTexts(database, usage_names)
        self._customers = NumberedTexts(database, usage_customers)
        self._newest_first = CompiledQuery(database, _newest((TO_DATE, BLOCKS[0])))
        self._newest = CompiledQuery(database, _newest((TO_DATE, *BLOCKS)))
        self._first_parts = CompiledQuery(database, _first_buckets(PARTS))
        self._first_day = CompiledQuery(database, _first_buckets((DAY,)))

    def add(
        self,
        connection: Connection,
        hours: Mapping[Key, Totals],
        pause: Pause = no_pause,
        minutes: Mapping[Key, int] = NO_KEYS,
        names: dict[str, int] | None = None,
    ) -> None:
        """Add hourly sums to the rows of their hours and days, and to blocks that are already built.

        `pause` is called after every few rows. `minutes` are those of customers' hours as bits, unknown without.
        `names` are the known ones of `NumberedTexts.numbers`.
        """
        self._lock(connection, "ROW EXCLUSIVE")  # from here on no number can lose its name (`forget_customer`)
        numbers = self._numbered(connection, hours, pause, names)
        days = coarser(with_pauses(hours.items(), pause), DAY.hours)
        rows = _rows(HOUR.hours, numbers, with_pauses(hours.items(), pause), minutes)
        rows += _rows(DAY.hours, numbers, with_pauses(days.items(), pause))
        self._insert.run(connection, rows, pause)
        pause()
        first_day = min((day for dimension, day, _ in days if dimension == CUSTOMER), default=None)
        if first_day is not None and self._is_late(connection, first_day):
            self._add_late(connection, days, numbers, pause)

    def add_batch(
        self,
        connection: Connection,
        records: Sequence[UsageRecord],
        hours: Mapping[Key, Totals],
        pause: Pause = no_pause,
        names: dict[str, int] | None = None,
    ) -> None:
        """Add records that the transaction has stored: as `add`, but Postgres sums them by customer.

        `hours` are the sums of the other dimensions.
        """
        if self._of_batch is None:
            raise TypeError("SQLite gets the sums of customers, by `add`.")
        self._lock(connection, "ROW EXCLUSIVE")
        customers = {record.user_id for record in records}
        if not customers:
            return
        self._of_batch.number_names(connection, customers)
        numbers = self._numbered(connection, hours, pause, names)
        days = coarser(hours.items(), DAY.hours)
        others = _rows(HOUR.hours, numbers, hours.items()) + _rows(DAY.hours, numbers, days.items())
        pause()
        self._of_batch.add(connection, records, others)
        pause()
        if self._is_late(connection, min(map(_at_ms, records)) // DAY.ms):
            of_customers = coarser(customer_sums(with_pauses(records, pause)).items(), DAY.hours)
            self._add_late(connection, of_customers, self._numbered(connection, of_customers, pause, names), pause)

    def _is_late(self, connection: Connection, first_day: int) -> bool:
        """Return whether sums of days from `first_day` on belong to blocks that are built.

        Call it after rows were added: on Postgres these block `build_block`, so that a new block cannot miss them.
        """
        to_date, built_until_ms = _built(connection, self._newest_first)
        return first_day * DAY.ms < max(to_date * DAY.ms, *built_until_ms)

    def _add_late(self, connection: Connection, days: Mapping[Key, Totals], numbers: _Numbers, pause: Pause) -> None:
        """Add the customers' sums of days to the blocks that are built."""
        to_date, built_until_ms = _built(connection, self._newest)
        late = late_in_blocks(days, built_until_ms) | {TO_DATE: late_to_date(days, to_date)}
        rows = [row for block, sums in late.items() for row in _rows(block.hours, numbers, sums.items())]
        self._insert.run(connection, rows, pause)

    def _numbered(
        self, connection: Connection, keys: Iterable[Key], pause: Pause, known: dict[str, int] | None
    ) -> _Numbers:
        customers, others = set[str](), set[str]()
        for dimension, _, name in with_pauses(keys, pause):
            (customers if dimension == CUSTOMER else others).add(name)
        names = self._names.numbers(connection, others, pause, known=known)
        return {CUSTOMER: self._customers.numbers(connection, customers, pause), SERVICE: names, PROVIDER: names}

    def forget_customer(self, connection: Connection, customer: str) -> None:
        """Delete the name of a customer unless it has rows, so that nothing tells that it ever called."""
        self._lock(connection, "SHARE ROW EXCLUSIVE")
        number, days = number_of(connection, CUSTOMER, customer), customer_days(connection)
        has_rows = sa.select(usage_rollups.c.bucket).where(
            usage_rollups.c.dimension == NUMBERS[CUSTOMER],
            usage_rollups.c.hours == DAY.hours,
            usage_rollups.c.name == number,
        )
        for start in range(0, len(days), MOST_BUCKETS):
            some = days[start : start + MOST_BUCKETS]
            if connection.execute(has_rows.where(usage_rollups.c.bucket.in_(some)).limit(1)).first() is not None:
                return
        connection.execute(sa.delete(usage_customers).where(usage_customers.c.id == number))

    def _lock(self, connection: Connection, mode: str) -> None:
        """Lock the table on Postgres until the transaction ends; SQLite has one writer."""
        if not self._is_sqlite:
            change_rows(connection, f"LOCK TABLE {usage_rollups.name} IN {mode} MODE", ())

    def build_block(self, connection: Connection, until_ms: int) -> bool:
        """Build the oldest missing block that ends by `until_ms` (milliseconds UTC); False if all are built."""
        self._lock(connection, "SHARE ROW EXCLUSIVE")
        to_date, built_until_ms = _built(connection, self._newest)
        limits = {_from(part): built // part.ms for part, built in zip(PARTS, built_until_ms, strict=True)}
        (firsts,) = self._first_parts.rows(connection, **limits)
        parts_until_ms = until_ms, *built_until_ms[:-1]
        for block, part, first, part_until_ms in zip(BLOCKS, PARTS, firsts, parts_until_ms, strict=True):
            parts = block.hours // part.hours
            bucket = -1 if first is None else first // parts
            if first is not None and (bucket + 1) * block.ms <= part_until_ms:
                days = between(part.hours, bucket * parts, (bucket + 1) * parts)
                connection.execute(_sum_of_customers((block.hours, bucket), days))
                return True
        return until_ms // DAY.ms > to_date and self._sum_to_date(connection, to_date, until_ms // DAY.ms)

    def _sum_to_date(self, connection: Connection, summed: int, until_day: int) -> bool:
        """Bring the totals to date from the day `summed` nearer to `until_day`; False if no customer has called.

        At most DAYS_AT_ONCE days with requests are added by one call, since other writers wait for it.
        """
        first = block_of(until_day)
        ((busy_day,),) = self._first_day.rows(connection, **{_from(DAY): max(summed, first)})
        if not summed and (busy_day is None or busy_day >= until_day):
            return False
        if busy_day is not None:
            until_day = min(until_day, busy_day + DAYS_AT_ONCE)
        parts = [between(DAY.hours, max(summed, first), until_day)]
        if summed > first:
            parts.append(between(TO_DATE.hours, summed, summed + 1))
        summing = _sum_of_customers((TO_DATE.hours, until_day), *parts).execution_options(preserve_rowcount=True)
        rows = connection.execute(summing).rowcount
        old = sa.delete(usage_rollups).where(usage_rollups.c.dimension == NUMBERS[CUSTOMER])
        connection.execute(old.where(between(TO_DATE.hours, 0, until_day)))
        return rows > 0

    def names_and_sums(self, connection: Connection, dimension: str, period: tuple[int, int]) -> dict[str, Totals]:
        """Return the totals by name over whole hours (start, end), milliseconds UTC."""
        stretches = self.stretches(connection, dimension, period)
        if not stretches:
            return {}
        rows = rows_of(dimension, stretches, COUNTERS, is_sqlite=self._is_sqlite).subquery()
        sums = sa.select(rows.c.name, *SUMS.values()).select_from(rows).group_by(rows.c.name).subquery()
        names = names_of(dimension)
        query = sa.select(names.c.name, *(sums.c[counter] for counter in COUNTERS)).where(names.c.id == sums.c.name)
        return {each: Totals(*sums) for each, *sums in connection.execute(query).all() if any(sums)}

    def stretches(self, connection: Connection, dimension: str, period: tuple[int, int]) -> list[Stretch]:
        """Return the buckets that cover a period of whole hours: (start, end), milliseconds UTC, the end excluded."""
        return self.stretches_of(connection, dimension, [period])[0]

    def stretches_of(
        self, connection: Connection, dimension: str, periods: Sequence[tuple[int, int]]
    ) -> list[list[Stretch]]:
        """Return the buckets of each of several periods, as `stretches`."""
        day, built_until_ms = _built(connection, self._newest) if dimension == CUSTOMER else (0, [])
        to_date = (block_of(day) * DAY.ms, day * DAY.ms) if day else None
        found = []
        for start_ms, end_ms in periods:
            midnight_ms, last = _end(start_ms, end_ms)
            grains = [(DAY, midnight_ms), *zip(BLOCKS, built_until_ms, strict=False)]
            days = cover(start_ms, midnight_ms, grains, to_date)
            found.append([*days, last] if last.start_ms < last.end_ms else days)
        return found


def rollup_names(keys: Iterable[Key]) -> set[str]:
    """Return the names of sums, without those of customers, which have a table of their own."""
    return {name for dimension, _, name in keys if dimension != CUSTOMER}


def _end(start_ms: int, end_ms: int) -> tuple[int, Stretch]:
    """Return the midnight next to the end of a period, and the hours to add to what is before it, or to subtract."""
    midnight_ms, next_ms = end_ms // DAY.ms * DAY.ms, -(-end_ms // DAY.ms) * DAY.ms
    if start_ms <= midnight_ms and next_ms - end_ms < end_ms - midnight_ms:
        return next_ms, Stretch(HOUR, end_ms, next_ms, -1)
    return midnight_ms, Stretch(HOUR, max(start_ms, midnight_ms), end_ms)


def names_of(dimension: str) -> sa.Table:
    """Return the table with the names of a dimension."""
    return usage_customers if dimension == CUSTOMER else usage_names


def customer_days(connection: Connection) -> range:
    """Return the days since 1970, from the first with requests of any customer to the last."""
    days = usage_rollups.c.bucket
    of_customers = (usage_rollups.c.dimension == NUMBERS[CUSTOMER], usage_rollups.c.hours == DAY.hours)
    ends = [sa.select(end(days)).where(*of_customers).scalar_subquery() for end in (func.min, func.max)]
    first, last = connection.execute(sa.select(*ends)).one()
    return range(0) if first is None else range(first, last + 1)


def number_of(connection: Connection, dimension: str, name: str) -> int | None:
    """Return the number of a name, None if it has none: then it has no rows."""
    names = names_of(dimension)
    number: int | None = connection.execute(sa.select(names.c.id).where(names.c.name == name)).scalar()
    return number


def _rows(
    hours: int, numbers: _Numbers, sums: Iterable[tuple[Key, Totals]], minutes: Mapping[Key, int] = NO_KEYS
) -> list[tuple[int, ...]]:
    as_tuple = msgspec.structs.astuple
    other = {CUSTOMER: UNKNOWN_MINUTES} if hours == HOUR.hours else {}
    return [
        (
            *(NUMBERS[key[0]], hours, key[1], numbers[key[0]][key[2]]),
            *as_tuple(totals),
            minutes.get(key) or other.get(key[0], NO_MINUTES),
        )
        for key, totals in sums
    ]


def _sum_of_customers(into: tuple[int, int], *parts: sa.ColumnElement[bool]) -> sa.Insert:
    """Return the statement that sums the customers' rows of all `parts` to rows of `into`: (hours, bucket)."""
    rollups, (hours, bucket) = usage_rollups.c, into
    key = (_number(NUMBERS[CUSTOMER], SmallInteger), _number(hours, SmallInteger), _number(bucket), rollups.name)
    sums = (
        sa.select(*key, *SUMS.values(), _number(NO_MINUTES))
        .where(rollups.dimension == NUMBERS[CUSTOMER], sa.or_(*parts))
        .group_by(rollups.name)
    )
    return sa.insert(usage_rollups).from_select(COLUMNS, sums)


def _number(value: int, kind: type[sa.Integer] = sa.Integer) -> sa.ColumnElement[int]:
    return sa.literal(value, kind)


@cache
def _newest(grains: tuple[Grain, ...]) -> sa.Select[Any]:
    """Return a query for the newest bucket of each grain, NULL if there is none."""
    rollups = usage_rollups.c
    newest = [
        sa.select(func.max(rollups.bucket))
        .where(rollups.dimension == NUMBERS[CUSTOMER], rollups.hours == grain.hours)
        .scalar_subquery()
        for grain in grains
    ]
    return sa.select(*newest)


def _built(connection: Connection, newest: CompiledQuery) -> tuple[int, list[int]]:
    """Return the day of the totals to date, 0 without, and the end of the newest block of each grain (ms UTC).

    Before that end no block is missing, except empty ones.
    """
    ((to_date, *found),) = newest.rows(connection)
    blocks = zip(BLOCKS, found, strict=False)
    return to_date or 0, [0 if bucket is None else (bucket + 1) * block.ms for block, bucket in blocks]


@cache
def _first_buckets(grains: tuple[Grain, ...]) -> sa.Select[Any]:
    """Return a query with a column for each grain: its earliest bucket that has rows of customers, or NULL.

    Buckets before the parameter that `_from` names are left out.
    """
    rollups = usage_rollups.c
    firsts = [
        sa.select(func.min(rollups.bucket))
        .where(
            rollups.dimension == NUMBERS[CUSTOMER],
            rollups.hours == grain.hours,
            rollups.bucket >= sa.bindparam(_from(grain), type_=sa.Integer),
        )
        .scalar_subquery()
        for grain in grains
    ]
    return sa.select(*firsts)


def _from(grain: Grain) -> str:
    """Return the name of the parameter of `_first_buckets` with the earliest bucket of a grain that counts."""
    return f"from_{grain.hours}"

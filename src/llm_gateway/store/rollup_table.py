"""Read and write the table of usage totals (rollups) per hour, day and block of days.

Every batch of records adds to hours and days. There are thousands of customers per day, so a report would read a
million rows: their days are added up to blocks of 2 days, those to blocks of 4 and so on, once the days of a block are
over. Late records are added to their block, if it is built, in the same transaction as to their day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import BigInteger, func
from sqlalchemy.engine import Connection

from llm_gateway.store.bulk import Pause, adding, no_pause, with_pauses
from llm_gateway.store.database import Database
from llm_gateway.store.driver_sql import CompiledQuery
from llm_gateway.store.rollups import (
    BLOCKS,
    COUNTERS,
    CUSTOMER,
    DAY,
    HOUR,
    Grain,
    Key,
    Stretch,
    Totals,
    coarser,
    cover,
)
from llm_gateway.store.set_insert import row_insert
from llm_gateway.store.tables import usage_rollups

COLUMNS = ("dimension", "grain", "bucket_ms", "name", *COUNTERS)
SUMS = {name: sa.cast(func.coalesce(func.sum(sa.literal_column(name)), 0), BigInteger).label(name) for name in COUNTERS}
"""SQL expression for the sum of each counter, 0 over no rows. Postgres sums integers to decimals, hence the cast.

Built once: building expressions takes SQLAlchemy longer than the database needs for a small report.
"""

NEGATED = {name: sa.type_coerce(-usage_rollups.c[name], BigInteger).label(name) for name in COUNTERS}
"""SQL expression for the negated value of each counter, to subtract hours from a day."""


class RollupTable:
    """The table usage_rollups. Its methods run in the caller's transaction."""

    def __init__(self, database: Database) -> None:
        self._is_sqlite = database.is_sqlite
        self._insert = row_insert(database, usage_rollups, COLUMNS, adding(usage_rollups, COUNTERS))
        self._newest_first_block = CompiledQuery(database, _newest(BLOCKS[:1]))
        self._newest_blocks = CompiledQuery(database, _newest(BLOCKS))

    def add(self, connection: Connection, hours: Mapping[Key, Totals], pause: Pause = no_pause) -> None:
        """Add hourly sums to the rows of their hours and days, and to blocks that are already built.

        `pause` is called after every few rows.
        """
        days = coarser(with_pauses(hours.items(), pause), DAY.hours)
        self._add(connection, {HOUR: hours, DAY: days}, pause)
        # Checked only now: on Postgres the rows above block `build_block`, so a new block cannot miss them.
        pause()
        oldest_ms = min((day for dimension, day, _ in days if dimension == CUSTOMER), default=0) * DAY.ms
        if days and oldest_ms < _built_until_ms(connection, self._newest_first_block, BLOCKS[:1])[0]:
            self._add(connection, _late(days, self._built_until_ms(connection)), pause)

    def _add(self, connection: Connection, sums: Mapping[Grain, Mapping[Key, Totals]], pause: Pause) -> None:
        rows: list[tuple[Any, ...]] = []
        for grain, sums_of_grain in sums.items():
            rows += _rows(grain.name, grain.ms, with_pauses(sums_of_grain.items(), pause))
        self._insert.run(connection, rows, pause)

    def build_block(self, connection: Connection, until_ms: int) -> bool:
        """Build the oldest missing block that ends by `until_ms` (milliseconds UTC); False if all are built."""
        if not self._is_sqlite:
            connection.execute(sa.text(f"LOCK TABLE {usage_rollups.name} IN SHARE ROW EXCLUSIVE MODE"))
        part, part_until_ms = DAY, until_ms
        for block, built_until_ms in zip(BLOCKS, self._built_until_ms(connection), strict=True):
            first = _first_bucket(connection, part, built_until_ms)
            if first is not None and (start := first // block.ms * block.ms) + block.ms <= part_until_ms:
                connection.execute(_build(part, block, start))
                return True
            part, part_until_ms = block, built_until_ms
        return False

    def sums(
        self, connection: Connection, dimension: str, period: tuple[int, int], counters: tuple[str, ...]
    ) -> sa.Subquery:
        """Return a query for rows of (name, counters) that, summed by name, are the totals of the period.

        The period is (start of an hour, midnight), milliseconds UTC, the end excluded. Sums of a name may all be 0.
        """
        stretches = self._cover(connection, dimension, period)
        return sa.union_all(*(_select(dimension, stretch, counters) for stretch in stretches)).subquery()

    def names_and_sums(
        self, connection: Connection, dimension: str, period: tuple[int, int], name: str | None = None
    ) -> dict[str, Totals]:
        """Return the totals by name over whole hours (start, end), milliseconds UTC; of one `name`, or of all."""
        start_ms, end_ms = period
        midnight_ms = end_ms // DAY.ms * DAY.ms
        stretches = self._cover(connection, dimension, (start_ms, midnight_ms))
        if max(start_ms, midnight_ms) < end_ms:
            stretches.append(Stretch(HOUR, max(start_ms, midnight_ms), end_ms))
        if not stretches:
            return {}
        rows = sa.union_all(*(_select(dimension, stretch, COUNTERS, name) for stretch in stretches)).subquery()
        query = sa.select(rows.c.name, *SUMS.values()).select_from(rows).group_by(rows.c.name)
        found = ((each[0], Totals(*each[1:])) for each in connection.execute(query))
        return {each: totals for each, totals in found if totals != Totals()}

    def _cover(self, connection: Connection, dimension: str, period: tuple[int, int]) -> list[Stretch]:
        start_ms, end_ms = period
        grains = [(DAY, end_ms)]
        if dimension == CUSTOMER:
            grains += zip(BLOCKS, self._built_until_ms(connection), strict=True)
        return cover(start_ms, end_ms, grains)

    def _built_until_ms(self, connection: Connection) -> list[int]:
        return _built_until_ms(connection, self._newest_blocks, BLOCKS)


def _select(dimension: str, stretch: Stretch, counters: tuple[str, ...], name: str | None = None) -> sa.Select[Any]:
    rollups = usage_rollups.c
    figures = [rollups[name] if stretch.sign > 0 else NEGATED[name] for name in counters]
    query = sa.select(rollups.name, *figures).where(
        rollups.dimension == dimension,
        rollups.grain == stretch.grain.name,
        rollups.bucket_ms >= stretch.start_ms,
        rollups.bucket_ms < stretch.end_ms,
    )
    return query if name is None else query.where(rollups.name == name)


def _late(days: Mapping[Key, Totals], built_until_ms: Sequence[int]) -> dict[Grain, Mapping[Key, Totals]]:
    """Return the totals of days that lie in blocks already built, summed per block."""
    late: dict[Grain, Mapping[Key, Totals]] = {}
    for block, until_ms in zip(BLOCKS, built_until_ms, strict=True):
        of_built = {key: totals for key, totals in days.items() if key[0] == CUSTOMER and key[1] * DAY.ms < until_ms}
        late[block] = coarser(of_built.items(), block.hours // DAY.hours)
    return late


def _rows(grain: str, length_ms: int, sums: Iterable[tuple[Key, Totals]]) -> list[tuple[Any, ...]]:
    as_tuple = msgspec.structs.astuple
    return [
        (dimension, grain, number * length_ms, name, *as_tuple(totals)) for (dimension, number, name), totals in sums
    ]


def _build(part: Grain, block: Grain, start_ms: int) -> sa.Insert:
    rollups = usage_rollups.c
    sums = (
        sa.select(
            rollups.dimension,
            sa.literal(block.name),
            sa.literal(start_ms, BigInteger),
            rollups.name,
            *SUMS.values(),
        )
        .where(rollups.dimension == CUSTOMER, rollups.grain == part.name)
        .where(rollups.bucket_ms >= start_ms, rollups.bucket_ms < start_ms + block.ms)
        .group_by(rollups.dimension, rollups.name)
    )
    return sa.insert(usage_rollups).from_select(COLUMNS, sums)


@cache
def _newest(blocks: tuple[Grain, ...]) -> sa.Select[Any]:
    """Return a query for the start of the newest block of each grain, NULL if no block is built."""
    rollups = usage_rollups.c
    newest = [
        sa.select(func.max(rollups.bucket_ms))
        .where(rollups.dimension == CUSTOMER, rollups.grain == block.name)
        .scalar_subquery()
        for block in blocks
    ]
    return sa.select(*newest)


def _built_until_ms(connection: Connection, newest: CompiledQuery, blocks: Sequence[Grain]) -> list[int]:
    """Return the end of the newest block of each grain; before it no block is missing, except empty ones."""
    (found,) = newest.rows(connection)
    return [0 if start is None else start + block.ms for block, start in zip(blocks, found, strict=True)]


def _first_bucket(connection: Connection, grain: Grain, from_ms: int) -> int | None:
    rollups = usage_rollups.c
    query = sa.select(func.min(rollups.bucket_ms)).where(
        rollups.dimension == CUSTOMER, rollups.grain == grain.name, rollups.bucket_ms >= from_ms
    )
    first: int | None = connection.execute(query).scalar()
    return first

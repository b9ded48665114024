"""The sums in the database: adding to them, adding them up to longer grains, and reading a period.

Every batch of records adds to hours and days. Of customers there are thousands a day, so that a report would read a
million rows: their days are added up to blocks of 4 and those to blocks of 16 days, once a block is over. A block that
is there gets what comes late in the same transaction as its day does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import BigInteger, func
from sqlalchemy.engine import Connection
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from llm_gateway.store.bulk import BulkInsert, adding
from llm_gateway.store.database import Database, usage_rollups
from llm_gateway.store.rollups import (
    BLOCKS,
    COUNTERS,
    CUSTOMER,
    DAY,
    HOUR,
    Grain,
    Key,
    Totals,
    coarser,
    cover,
)

COLUMNS = ("dimension", "grain", "bucket_ms", "name", *COUNTERS)


class RollupTable:
    """The table usage_rollups. Its methods run in the caller's transaction."""

    def __init__(self, database: Database) -> None:
        self._is_sqlite = database.is_sqlite
        placeholder = "?" if self._is_sqlite else "%s"
        self._insert = BulkInsert(usage_rollups, COLUMNS, adding(usage_rollups, COUNTERS), placeholder)

    def add(self, connection: Connection, hours: Mapping[Key, Totals]) -> None:
        """Add hourly sums to the hours and days, and to the blocks that were built already."""
        days = coarser(hours, DAY.hours)
        self._add(connection, {HOUR: hours, DAY: days})
        # Looked at only now: on Postgres the rows above keep a builder waiting, so that it cannot have missed them.
        oldest_ms = min((day for dimension, day, _ in days if dimension == CUSTOMER), default=0) * DAY.ms
        late: dict[Grain, Mapping[Key, Totals]] = {}
        for block in BLOCKS:
            built_until_ms = _built_until_ms(connection, block)
            if not days or oldest_ms >= built_until_ms:
                break
            of_customers = {
                key: totals for key, totals in days.items() if key[0] == CUSTOMER and key[1] * DAY.ms < built_until_ms
            }
            late[block] = coarser(of_customers, block.hours // DAY.hours)
        self._add(connection, late)

    def _add(self, connection: Connection, sums: Mapping[Grain, Mapping[Key, Totals]]) -> None:
        rows: list[tuple[Any, ...]] = []
        for grain, sums_of_grain in sums.items():
            rows += _rows(grain.name, grain.ms, sums_of_grain)
        if not self._is_sqlite:
            rows.sort()  # Postgres locks row by row: writers that take them in one order cannot deadlock.
        self._insert.run(connection, rows)

    def build_block(self, connection: Connection, until_ms: int) -> bool:
        """Add up the oldest block that is over by then and not built yet; False when there is none."""
        if not self._is_sqlite:
            connection.execute(sa.text(f"LOCK TABLE {usage_rollups.name} IN SHARE ROW EXCLUSIVE MODE"))
        part, part_until_ms = DAY, until_ms
        for block in BLOCKS:
            built_until_ms = _built_until_ms(connection, block)
            start = _first_bucket(connection, part, built_until_ms)
            if start is not None:
                start = start // block.ms * block.ms
                if start + block.ms <= part_until_ms:
                    connection.execute(_build(part, block, start))
                    return True
            part, part_until_ms = block, built_until_ms
        return False

    def sums(
        self, connection: Connection, dimension: str, period: tuple[int, int], counters: tuple[str, ...]
    ) -> sa.Subquery:
        """Rows of (name, counters) that, summed by name, are the totals of the period.

        It lasts from its first hour to before its last midnight, both in milliseconds UTC.
        """
        grains = [(DAY, period[1])]
        if dimension == CUSTOMER:
            grains += [(block, _built_until_ms(connection, block)) for block in BLOCKS]
        rollups = usage_rollups.c
        columns = [rollups.name, *(rollups[counter] for counter in counters)]
        of_dimension = sa.select(*columns).where(rollups.dimension == dimension)
        parts = [
            of_dimension.where(rollups.grain == grain.name, rollups.bucket_ms >= start, rollups.bucket_ms < end)
            for grain, start, end in cover(period, grains)
        ]
        return sa.union_all(*parts).subquery()


def _rows(grain: str, length_ms: int, sums: Mapping[Key, Totals]) -> list[tuple[Any, ...]]:
    as_tuple = msgspec.structs.astuple
    return [
        (dimension, grain, number * length_ms, name, *as_tuple(totals))
        for (dimension, number, name), totals in sums.items()
    ]


def summed(columns: ReadOnlyColumnCollection[str, Any], counters: tuple[str, ...]) -> list[sa.Label[int]]:
    """The sum of each counter, 0 over no rows. Postgres sums integers to decimals, so they are cast back."""
    return [sa.cast(func.coalesce(func.sum(columns[name]), 0), BigInteger).label(name) for name in counters]


def _build(part: Grain, block: Grain, start_ms: int) -> sa.Insert:
    rollups = usage_rollups.c
    sums = (
        sa.select(
            rollups.dimension,
            sa.literal(block.name),
            sa.literal(start_ms, BigInteger),
            rollups.name,
            *summed(rollups, COUNTERS),
        )
        .where(rollups.dimension == CUSTOMER, rollups.grain == part.name)
        .where(rollups.bucket_ms >= start_ms, rollups.bucket_ms < start_ms + block.ms)
        .group_by(rollups.dimension, rollups.name)
    )
    return sa.insert(usage_rollups).from_select(COLUMNS, sums)


def _built_until_ms(connection: Connection, block: Grain) -> int:
    """Where the blocks end that are built; before that every block is there that would not be empty."""
    rollups = usage_rollups.c
    query = sa.select(func.max(rollups.bucket_ms)).where(rollups.dimension == CUSTOMER, rollups.grain == block.name)
    newest: int | None = connection.execute(query).scalar()
    return 0 if newest is None else newest + block.ms


def _first_bucket(connection: Connection, grain: Grain, from_ms: int) -> int | None:
    rollups = usage_rollups.c
    query = sa.select(func.min(rollups.bucket_ms)).where(
        rollups.dimension == CUSTOMER, rollups.grain == grain.name, rollups.bucket_ms >= from_ms
    )
    first: int | None = connection.execute(query).scalar()
    return first

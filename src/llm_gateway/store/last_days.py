"""Reports over a period by the rollups of one dimension, summed by name or altogether.

Their queries are compiled once for each way in which buckets cover a period: to build and compile one takes longer
than the database needs to sum a few hundred rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import func
from sqlalchemy.engine import Connection

from llm_gateway.store.database import Database
from llm_gateway.store.driver_sql import CompiledQuery
from llm_gateway.store.rollup_rows import buckets, rows_of
from llm_gateway.store.rollup_table import RANKED_BY, SUMS, RollupTable, names_of
from llm_gateway.store.rollups import COUNTERS, SERVICE, Stretch, Totals

MOST_QUERIES = 200
"""Queries that are kept. There are some for each hour of the day, and for customers others each day."""
_queries: dict[tuple[object, ...], sa.Select[Any]] = {}
"""Queries of all instances, for the two kinds of databases. What they are compiled to is kept with them."""


class LastDays:
    """The reports. Periods are of whole hours: (start, end), milliseconds UTC, the end excluded."""

    def __init__(self, database: Database, rollups: RollupTable) -> None:
        self._database = database
        self._rollups = rollups

    def summary(self, connection: Connection, period: tuple[int, int]) -> Totals:
        """Return the totals of all requests."""
        stretches = self._rollups.stretches(connection, SERVICE, period)

        def make() -> sa.Select[Any]:
            rows = rows_of(SERVICE, stretches, COUNTERS, is_sqlite=self._database.is_sqlite).subquery()
            sums: list[Any] = list(SUMS.values())
            return sa.select(*sums).select_from(rows)

        query = self._query(("", *_shape(stretches)), make)
        (row,) = query.rows(connection, **buckets(stretches))
        return Totals(*row)

    def by_name(
        self,
        connection: Connection,
        dimension: str,
        period: tuple[int, int],
        counters: tuple[str, ...] = COUNTERS,
        limit: int | None = None,
    ) -> list[tuple[Any, ...]]:
        """Return (name, counters) of up to `limit` names, sorted by cost, then count, highest first.

        Names whose counters are all 0 are left out.
        """
        stretches = self._rollups.stretches(connection, dimension, period)
        most = {} if limit is None else {"most": limit}

        def make() -> sa.Select[Any]:
            made = _by_name(dimension, stretches, counters, is_sqlite=self._database.is_sqlite)
            return made.limit(sa.bindparam("most", type_=sa.Integer)) if most else made

        query = self._query((dimension, counters, *most, *_shape(stretches)), make)
        return query.rows(connection, **buckets(stretches), **most)

    def largest(
        self, connection: Connection, dimension: str, period: tuple[int, int], start: int, limit: int
    ) -> dict[int, str]:
        """Return up to `limit` names by their numbers, in the order of `by_name` from the place `start` on."""
        stretches = self._rollups.stretches(connection, dimension, period)

        def make() -> sa.Select[Any]:
            names = names_of(dimension)
            made = _by_name(dimension, stretches, RANKED_BY, is_sqlite=self._database.is_sqlite)
            most, first = (sa.bindparam(name, type_=sa.Integer) for name in ("most", "start"))
            listed: sa.Select[Any] = made.with_only_columns(names.c.id, names.c.name).limit(most).offset(first)
            return listed

        query = self._query(("largest", dimension, *_shape(stretches)), make)
        return dict(query.rows(connection, **buckets(stretches), most=limit, start=start))

    def _query(self, key: tuple[object, ...], make: Callable[[], sa.Select[Any]]) -> CompiledQuery:
        """Return the query with this key; `make` builds it if no instance has done so."""
        found = _queries.get(shared := (self._database.is_sqlite, *key))
        if found is None:
            if len(_queries) >= MOST_QUERIES:
                _queries.clear()
            found = _queries[shared] = make()
        return CompiledQuery(self._database, found)


def _shape(stretches: Sequence[Stretch]) -> tuple[tuple[int, int], ...]:
    return tuple((each.grain.hours, each.sign) for each in stretches)


def _by_name(
    dimension: str, stretches: Sequence[Stretch], counters: tuple[str, ...], *, is_sqlite: bool
) -> sa.Select[Any]:
    rows, names = rows_of(dimension, stretches, counters, is_sqlite=is_sqlite).subquery(), names_of(dimension)
    sums = (
        sa.select(rows.c.name, *(SUMS[counter] for counter in counters))
        .group_by(rows.c.name)
        .having(sa.or_(*(func.sum(sa.literal_column(counter)) != 0 for counter in counters)))
        .subquery()
    )
    return (
        sa.select(names.c.name, *(sums.c[counter] for counter in counters))
        .where(names.c.id == sums.c.name)
        .order_by(sums.c.cost_nanos.desc(), sums.c.requests.desc(), names.c.name)
    )

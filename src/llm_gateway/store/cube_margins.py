"""Sum past days of the cube by a few of its dimensions alone, its margins (`cube.py`): day by day, in the background.

A report by keys then reads some hundred rows of a day, not thousands. Records are seldom added to the margins when they
are stored, since their days are not over. Only late ones are, together with the cube (`cube_table.py`).

    days:  ──────── built ────────┬────── not built yet ──────→
           margins are complete   │  the cube has the sums
"""

from __future__ import annotations

from functools import cache

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.store.cube import ALL, MARGIN_GRAINS, MARGINS, WHOLE, Margin
from llm_gateway.store.cube_table import NEWEST_MARGINS, CubeTable, day_after
from llm_gateway.store.database import Database
from llm_gateway.store.driver_sql import CompiledQuery
from llm_gateway.store.rollup_table import SUMS
from llm_gateway.store.rollups import COUNTERS, DAY, DAY_MS, Grain
from llm_gateway.store.tables import usage_cube

_of = usage_cube.c
_FIRST = sa.select(sa.func.min(_of.bucket)).where(
    _of.hours == DAY.hours, _of.bucket >= sa.bindparam("start", type_=sa.Integer)
)


class CubeMargins:
    """The steps that sum past days."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cube = CubeTable(database)
        self._newest = CompiledQuery(database, NEWEST_MARGINS)
        self._first = CompiledQuery(database, _FIRST)

    def step(self, until_ms: int) -> bool:
        """Sum the next day that ends by `until_ms` (milliseconds UTC); False if none is missing.

        Raises:
            StoreUnavailable: the database does not answer; call again later.
        """
        with self._database.read() as connection:  # without the lock that all writers would wait for
            if self._next_day(connection, until_ms) is None:
                return False
        with self._database.write() as connection:
            self._cube.filling(connection, to_fill=True)  # no record of the day is being added meanwhile
            day = self._next_day(connection, until_ms)
            if day is None:  # another host has been faster
                return False
            for margin in MARGINS:
                for grain in MARGIN_GRAINS:
                    buckets = DAY.hours // grain.hours
                    limits = {"first": day * buckets, "end": (day + 1) * buckets}
                    connection.execute(_summing(margin, grain), limits)
            return True

    def _next_day(self, connection: Connection, until_ms: int) -> int | None:
        """Return the first day with requests that is not built, None if it is not over by `until_ms`."""
        ((newest,),) = self._newest.rows(connection)
        ((day,),) = self._first.rows(connection, start=day_after(newest))
        return None if day is None or (day + 1) * DAY_MS > until_ms else day


@cache
def _summing(margin: Margin, grain: Grain) -> sa.Insert:
    """Return the statement that sums the buckets from `first` to before `end` of a grain."""
    names = [_of[name] if name in margin.names else sa.literal(ALL, sa.Integer) for name in WHOLE.names]
    sums = (
        sa.select(sa.literal(margin.hours(grain), sa.SmallInteger), _of.bucket, *names, *SUMS.values())
        .where(_of.hours == grain.hours, _of.bucket >= sa.bindparam("first"), _of.bucket < sa.bindparam("end"))
        .group_by(_of.bucket, *(_of[name] for name in margin.names))
    )
    return sa.insert(usage_cube).from_select(["hours", "bucket", *WHOLE.names, *COUNTERS], sums)

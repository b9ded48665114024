"""Find a customer's records on Postgres, back in time, by an index of the days in which customers called.

A page of records then reads little more than its own rows. A customer with very many requests a day is left to
`record_scan.py`: such records lie close together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from operator import attrgetter
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.store.record_filter import CLOCK_SLACK_MS, RecordFilter, conditions
from llm_gateway.store.record_indexes import customer_days
from llm_gateway.store.rollups import DAY_MS
from llm_gateway.store.tables import usage_records
from llm_gateway.store.usage import first_id, time_of

FIRST_DAYS, MOST_DAYS = 2, 32
"""Days that are searched at a time: 2 at first, then twice as many each time, up to 32."""

MOST_ROWS = 500
"""Rows that a statement reads. They can lie on as many pages, which a disk reads in a tenth of a second."""

Columns: TypeAlias = Sequence[sa.Column[Any]]
Rows: TypeAlias = list[sa.Row[Any]]

_by_id = attrgetter("id")


class DaysEnd(Enum):
    """Reason why a search ended: enough rows or all were found, it took too long, or a day has too many rows."""

    FOUND = "found"
    LATE = "late"
    CROWDED = "crowded"


class CustomerDays:
    """One search, for up to `most` rows with ids before `end_id`; `columns` have the id."""

    def __init__(self, wanted: RecordFilter, end_id: str, most: int, columns: Columns) -> None:
        self._wanted = wanted
        self._end_id = end_id
        self._most = most
        self._columns = columns
        self._is_match = sa.and_(*conditions(wanted, is_sqlite=False)).label("is_match")

    def run(self, connection: Connection, has_time: Callable[[], bool]) -> tuple[Rows, str, DaysEnd]:
        """Return rows, newest first, and an id: all that match from it on are among them.

        The search goes on until `has_time` returns False, but comes at least one day back.
        """
        matches: Rows = []
        end_id, days = self._end_id, FIRST_DAYS
        first_day, end_day = self._wanted.start_ms // DAY_MS, self._newest_day(connection) + 1
        while first_day < end_day:
            start_day = max(first_day, end_day - days)
            found = self._in_days(connection, range(start_day, end_day))
            if found is None and end_day - start_day > 1:
                days = 1
                continue
            if found is None:
                return self._newest(matches, end_id), end_id, DaysEnd.CROWDED
            matches += found
            # A record of a day before can have an id of this day's first minute.
            end_id = min(self._end_id, first_id(start_day * DAY_MS + CLOCK_SLACK_MS))
            newest = self._newest(matches, end_id)
            if len(newest) == self._most:
                return newest, end_id, DaysEnd.FOUND
            if first_day < start_day and end_id < self._end_id and not has_time():
                return newest, end_id, DaysEnd.LATE
            end_day, days = start_day, min(days * 2, MOST_DAYS)
        return self._newest(matches, ""), "", DaysEnd.FOUND

    def _newest(self, rows: Iterable[sa.Row[Any]], lowest_id: str) -> Rows:
        return sorted((each for each in rows if each.id >= lowest_id), key=_by_id, reverse=True)[: self._most]

    def _newest_day(self, connection: Connection) -> int:
        """Return the last day that can have a record with an id before the end."""
        newest = connection.execute(sa.select(sa.func.max(usage_records.c.id))).scalar()
        last_ms = time_of(min(self._end_id, newest or self._end_id)) + CLOCK_SLACK_MS
        return min(last_ms, self._wanted.end_ms - 1) // DAY_MS

    def _in_days(self, connection: Connection, days: range) -> Rows | None:
        """Return the rows that match, in no order; None if there are too many to look at.

        The limit of the inner query counts all rows of the customer, and keeps the planner from another index.
        """
        rows = sa.select(*self._columns, self._is_match)
        rows = rows.where(customer_days(days, self._wanted.values["customer"])).limit(MOST_ROWS + 1)
        found = connection.execute(sa.select(rows.subquery())).all()
        if len(found) > MOST_ROWS:
            return None
        return [each for each in found if each.is_match and each.id < self._end_id]

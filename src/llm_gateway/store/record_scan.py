"""Find the ids of records that match a filter, back in time, within the time of a search (`record_search.py`).

A stretch of time is read through windows, each as long as a database reads in some milliseconds. On Postgres each
statement is a way to the server, so several stretches are read together if they are no longer than such a window: the
minutes in which a customer called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

import msgspec
import sqlalchemy as sa
from sqlalchemy import func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection

from llm_gateway.store.database import Database
from llm_gateway.store.driver_sql import CompiledQuery
from llm_gateway.store.record_filter import CLOCK_SLACK_MS, RecordFilter, Stretch, conditions
from llm_gateway.store.tables import usage_records
from llm_gateway.store.usage import first_id, time_of

FIRST_WINDOW_MS, LEAST_WINDOW_MS = 10_000, 100
"""Milliseconds of the first window, and of the shortest."""

FAST_S, SLOW_S = 0.01, 0.04
"""Seconds of a window below which the next one is four times as long, and above which it is half as long."""

MOST_AT_ONCE = 16
"""Maximum number of stretches that are read together."""

_ids = usage_records.c.id
_MOST: sa.BindParameter[int] = sa.bindparam("most", type_=sa.Integer)


class RecordScan:
    """One search, for up to `most` ids before `end_id`. `clock` returns seconds, as `deadline`."""

    def __init__(
        self,
        database: Database,
        wanted: RecordFilter,
        end_id: str,
        most: int,
        *,
        deadline: float,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._wanted = wanted
        self._end_id = end_id
        self._most = most
        self._deadline = deadline
        self._clock = clock
        self._window_ms = FIRST_WINDOW_MS
        self._first_ms = self._searched_ms = time_of(end_id) + 1  # not later: each page must lead on
        self._ids: list[str] = []

    def run(self, connection: Connection, stretches: Iterable[Stretch]) -> tuple[list[str], int | None]:
        """Return the ids, and how far back the search came (milliseconds UTC); None if it is over, or full.

        `stretches` are newest first. One with as many matches as it has requests is over, too.
        """
        batch: list[Stretch] = []
        for stretch in stretches:
            if batch and not self._has_place(batch, stretch):
                if (result := self._read_batch(connection, batch)) is not None:
                    return result
                batch = []
            batch.append(stretch)
        return (self._read_batch(connection, batch) if batch else None) or (self._ids, None)

    def _has_place(self, batch: list[Stretch], stretch: Stretch) -> bool:
        """Return True if the stretch is to be read together with the batch: all of it is no longer than a window."""
        if self._database.is_sqlite or len(batch) == MOST_AT_ONCE:
            return False
        lengths = [each.end_ms - each.start_ms for each in (*batch, stretch)]
        return min(lengths) > 0 and sum(lengths) + 2 * CLOCK_SLACK_MS * len(lengths) <= self._window_ms

    def _read_batch(self, connection: Connection, batch: list[Stretch]) -> tuple[list[str], int | None] | None:
        """Read stretches. Returns what `run` returns if the search ends with them."""
        if len(batch) == 1:
            self._read(connection, batch[0])
        else:
            self._read_together(connection, batch)
        if len(self._ids) >= self._most:
            return self._ids, None
        has_more = self._wanted.start_ms - CLOCK_SLACK_MS < self._searched_ms < self._first_ms
        if has_more and self._clock() > self._deadline:
            return self._ids, self._searched_ms
        return None

    def _read(self, connection: Connection, stretch: Stretch) -> None:
        start_ms, end_ms, left = stretch
        lowest_ms = start_ms if start_ms == end_ms else start_ms - CLOCK_SLACK_MS
        self._searched_ms = min(self._searched_ms, end_ms + (0 if start_ms == end_ms else CLOCK_SLACK_MS))
        while self._searched_ms > lowest_ms:
            began = self._clock()
            lower_ms = max(lowest_ms, self._searched_ms - self._window_ms)
            limits = {"start": first_id(lower_ms), "end": min(self._end_id, first_id(self._searched_ms))}
            most = min(self._most - len(self._ids), left)
            found = self._window.rows(connection, most=most, **limits) if left else []
            self._ids += (each for (each,) in found)
            left -= len(found)
            self._searched_ms, took_s = lower_ms if left else lowest_ms, self._clock() - began
            if len(self._ids) >= self._most or began + took_s > self._deadline:
                return
            self._adapt(took_s)

    def _adapt(self, took_s: float) -> None:
        if took_s < FAST_S:
            self._window_ms *= 4
        elif took_s > SLOW_S:
            self._window_ms = max(self._window_ms // 2, LEAST_WINDOW_MS)

    def _read_together(self, connection: Connection, stretches: list[Stretch]) -> None:
        began, windows = self._clock(), []
        for start_ms, end_ms, _ in stretches:
            end_id = first_id(min(self._searched_ms, end_ms + CLOCK_SLACK_MS))
            windows.append((first_id(start_ms - CLOCK_SLACK_MS), min(self._end_id, end_id)))
        given = msgspec.json.encode(windows).decode()
        found = self._windows.rows(connection, windows=given, most=self._most - len(self._ids))
        self._ids += (each for (each,) in found)
        self._searched_ms = min(self._searched_ms, stretches[-1].start_ms - CLOCK_SLACK_MS)
        self._adapt(self._clock() - began)

    @cached_property
    def _window(self) -> CompiledQuery:
        """The query for up to `most` ids from `start` to before `end`, newest first."""
        return CompiledQuery(self._database, self._between(sa.bindparam("start"), sa.bindparam("end")))

    @cached_property
    def _windows(self) -> CompiledQuery:
        """The query for up to `most` ids, newest first, in a JSON array of (start, end); for Postgres.

        The limit of the inner query keeps the planner from reading the whole table in the order of its ids.
        """
        window = func.jsonb_array_elements(sa.cast(sa.bindparam("windows"), JSONB)).table_valued("value", name="window")
        start, end = (window.c.value.op("->>")(sa.literal_column(at)) for at in "01")
        found = self._between(start, end).lateral("found")
        query = sa.select(found.c.id).select_from(window.join(found, sa.true()))
        return CompiledQuery(self._database, query.order_by(found.c.id.desc()).limit(_MOST))

    def _between(self, start: sa.ColumnElement[str], end: sa.ColumnElement[str]) -> sa.Select[tuple[str]]:
        # One bound at each end, since SQLite uses only one.
        limits = _ids >= start, _ids < end
        wanted = conditions(self._wanted, is_sqlite=self._database.is_sqlite)
        return sa.select(_ids).where(*wanted, *limits).order_by(_ids.desc()).limit(_MOST)

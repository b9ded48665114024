"""Find stored usage records: one by its id, or pages of those that match a filter, newest first.

Records are stored by their id, and so by time. A search goes back in time through windows, each as long as a database
reads in some milliseconds, so that it can end after 200 ms wherever it is:

    from ········ position ◀── window ── window ── to
    not searched yet      |   searched, rows returned

The sums say in which hours a customer, key, service, … had requests, and in which minutes a customer; others are passed
over. An index finds sessions, failures, the client's own ids (`record_indexes.py`), and on Postgres a customer's
records (`customer_days.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy import func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection

from llm_gateway.domain.usage import AttemptRecord, Usage, UsageRecord
from llm_gateway.store.attempts_json import AttemptTexts
from llm_gateway.store.customer_days import Columns, CustomerDays, DaysEnd, Rows
from llm_gateway.store.database import Database
from llm_gateway.store.record_filter import CLOCK_SLACK_MS, HourFinder, RecordFilter, conditions, of_values
from llm_gateway.store.record_indexes import CLIENT_IDS, FREQUENT_OUTCOMES, IS_FAILURE, SESSIONS
from llm_gateway.store.record_scan import RecordScan
from llm_gateway.store.rollups import HOUR_MS
from llm_gateway.store.set_insert import as_json
from llm_gateway.store.tables import usage_cube_fill, usage_records
from llm_gateway.store.usage import first_id, time_of

SEARCH_S = 0.2
"""Seconds after which a search ends with the records that it has found so far."""

LATEST_MS = 2**47
"""A time after that of every id."""

EXPORT_ROWS = 500
"""Records that an export reads at a time."""

NO_VALUES: Mapping[str, str] = {}


class AnswerTiming(NamedTuple):
    """Milliseconds that an answer of a provider took: in all, and until the first part of a stream."""

    provider: str
    model: str
    latency_ms: int
    first_token_ms: int | None


_PLAIN_FIELDS = tuple(
    name for name in UsageRecord.__struct_fields__ if name not in ("instance", "usage", "tags", "attempts")
)
_KINDS = Usage.__struct_fields__
_COLUMNS = (
    *(usage_records.c[name] for name in _PLAIN_FIELDS),
    *(usage_records.c[name] for name in _KINDS),
    *(usage_records.c[name] for name in ("instance", "tags", "attempts")),
)
_TIMING_COLUMNS = tuple(usage_records.c[name] for name in ("id", "at_ms", *AnswerTiming._fields))
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class RecordPage(msgspec.Struct, frozen=True):
    """Records of a search, newest first.

    `position` is where the next page begins, None after the last. `scanned_until_ms` (milliseconds UTC): everything
    since then has been searched; None if the search is over or the page is full.
    """

    records: list[UsageRecord]
    position: str | None = None
    scanned_until_ms: int | None = None


class TimingSample(NamedTuple):
    """Timings of the newest answers of a period. `oldest_ms` (milliseconds UTC) is when the oldest request came.

    `is_whole`: the period has no others.
    """

    timings: list[AnswerTiming]
    oldest_ms: int | None
    is_whole: bool


class RecordSearch:
    """Searches over stored records. `clock` returns seconds, for the limit of a search."""

    def __init__(self, database: Database, clock: Callable[[], float] = perf_counter) -> None:
        self._database = database
        self._is_sqlite = database.is_sqlite
        self._clock = clock
        self._attempts = AttemptTexts(database)

    def find(self, record_id: str, values: Mapping[str, str] = NO_VALUES) -> UsageRecord | None:
        """Return the record with this id, else the newest with it as the client's id; None if no record has it.

        `values` are those that the record must have, by the name of a dimension.
        """
        if "\x00" in record_id:  # Postgres stores no such text
            return None
        if _UUID.fullmatch(record_id):
            with self._database.read() as connection:
                query = sa.select(*_COLUMNS).where(usage_records.c.id == record_id, *of_values(values))
                if found := self._records(connection, connection.execute(query).all()):
                    return found[0]
        page = self.page(RecordFilter(start_ms=0, end_ms=LATEST_MS, client_request_id=record_id, values=values), 1)
        return page.records[0] if page.records else None

    def page(self, wanted: RecordFilter, limit: int, position: str | None = None) -> RecordPage:
        """Return up to `limit` records that match, newest first, from `position` (of the page before) on."""
        deadline = self._clock() + SEARCH_S
        if position is not None:
            wanted = msgspec.structs.replace(wanted, end_ms=min(wanted.end_ms, time_of(position) + CLOCK_SLACK_MS))
        end_id = position or first_id(wanted.end_ms + CLOCK_SLACK_MS)
        with self._database.read() as connection:
            until_ms = None
            if wanted.client_request_id or "session" in wanted.values or _is_failure(wanted):
                query = self._indexed(wanted, first_id(wanted.start_ms - CLOCK_SLACK_MS), end_id)
                rows = list(connection.execute(query.limit(limit + 1)).all())
            else:
                rows, until_ms = self._scan(connection, wanted, end_id, limit + 1, deadline)
            records = self._records(connection, rows[:limit])
        if len(rows) > limit:
            return RecordPage(records, rows[limit - 1].id)
        if until_ms is None:
            return RecordPage(records)
        return RecordPage(records, first_id(until_ms), min(until_ms, wanted.end_ms))

    def timings(self, wanted: RecordFilter, most: int) -> TimingSample:
        """Return the timings of the newest `most` answers that match, or of those that are found in 200 ms."""
        wanted = msgspec.structs.replace(wanted, outcome="ok")
        deadline = self._clock() + SEARCH_S
        with self._database.read() as connection:
            end_id = first_id(wanted.end_ms + CLOCK_SLACK_MS)
            rows, until_ms = self._scan(connection, wanted, end_id, most, deadline, _TIMING_COLUMNS)
        timings = [
            AnswerTiming(row.provider or "", row.model or "", row.latency_ms, row.first_token_ms) for row in rows
        ]
        oldest_ms = min((row.at_ms for row in rows), default=None)
        return TimingSample(timings, oldest_ms, until_ms is None and len(rows) < most)

    def in_order(self, start_ms: int, end_ms: int, values: Mapping[str, str] = NO_VALUES) -> Iterator[UsageRecord]:
        """Yield the records of a period, oldest first; `values` are those that they must have.

        `EXPORT_ROWS` of them are read, and in memory, at a time. Hours without a match are skipped.
        """
        wanted = RecordFilter(start_ms=start_ms, end_ms=end_ms, values=values)
        with self._database.read() as connection:
            is_cube_whole = _is_cube_whole(connection)
            hours = HourFinder(connection, wanted, is_cube_whole=is_cube_whole, joined_ms=HOUR_MS)
            stretches = sorted(
                (each.start_ms, each.end_ms) for each in hours.stretches() if each.start_ms < each.end_ms
            )
        for stretch in stretches:
            yield from self._stretch_in_order(*stretch, values)

    def _stretch_in_order(self, start_ms: int, end_ms: int, values: Mapping[str, str]) -> Iterator[UsageRecord]:
        records = usage_records.c
        last_id, end_id = first_id(start_ms - CLOCK_SLACK_MS), first_id(end_ms + CLOCK_SLACK_MS)
        query = sa.select(*_COLUMNS).where(*of_values(values)).order_by(records.id).limit(EXPORT_ROWS)
        while True:
            with self._database.read() as connection:
                part = query.where(records.id > last_id, records.id < end_id)
                found = self._records(connection, connection.execute(part).all())
            yield from (each for each in found if start_ms <= each.at_ms < end_ms)
            if len(found) < EXPORT_ROWS:
                return
            last_id = found[-1].id

    def _indexed(self, wanted: RecordFilter, start_id: str, end_id: str) -> sa.Select[Any]:
        """Return the query for the records between two ids that an index finds."""
        is_sqlite = self._is_sqlite
        query = sa.select(*_COLUMNS).where(*conditions(wanted, is_sqlite=is_sqlite))
        session = wanted.values.get("session")
        if wanted.client_request_id is not None:
            query = query.where(CLIENT_IDS.lookup(wanted.client_request_id, is_sqlite=is_sqlite))
        elif session is not None:
            query = query.where(SESSIONS.lookup(session, is_sqlite=is_sqlite))
        else:
            query = query.where(IS_FAILURE)
        query = query.where(usage_records.c.id >= start_id, usage_records.c.id < end_id)
        return query.order_by(usage_records.c.id.desc())

    def _rows(self, connection: Connection, ids: Sequence[str], columns: Columns) -> Rows:
        # One value for all ids: to bind 2,000 takes SQLAlchemy as long as SQLite needs to find the rows.
        given = sa.bindparam("ids", as_json(ids), sa.Text)
        each = func.json_each(given) if self._is_sqlite else func.jsonb_array_elements_text(sa.cast(given, JSONB))
        listed = sa.select(each.table_valued("value").c.value)
        query: sa.Select[Any] = sa.select(*columns).where(usage_records.c.id.in_(listed))
        return list(connection.execute(query.order_by(usage_records.c.id.desc())).all())

    def _scan(
        self,
        connection: Connection,
        wanted: RecordFilter,
        end_id: str,
        most: int,
        deadline: float,
        columns: Columns = _COLUMNS,
    ) -> tuple[Rows, int | None]:
        """Return up to `most` rows before `end_id`, and how far back the search came; None if it is over."""
        oldest_ms = self._oldest_ms(connection)
        if oldest_ms is None:
            return [], None
        wanted = msgspec.structs.replace(wanted, start_ms=max(wanted.start_ms, oldest_ms))
        rows: Rows = []
        if "customer" in wanted.values and not self._is_sqlite:
            days = CustomerDays(wanted, end_id, most, columns)
            rows, end_id, end = days.run(connection, lambda: self._clock() <= deadline)
            if end is not DaysEnd.CROWDED:
                return rows, None if end is DaysEnd.FOUND else time_of(end_id)
        hours = HourFinder(connection, wanted, is_cube_whole=_is_cube_whole(connection))
        scan = RecordScan(self._database, wanted, end_id, most - len(rows), deadline=deadline, clock=self._clock)
        ids, until_ms = scan.run(connection, hours.stretches())
        return rows + self._rows(connection, ids, columns), until_ms

    def _oldest_ms(self, connection: Connection) -> int | None:
        ids = usage_records.c.id
        oldest = connection.execute(sa.select(ids).order_by(ids).limit(1)).scalar()
        return None if oldest is None else time_of(oldest) - CLOCK_SLACK_MS

    def _records(self, connection: Connection, rows: Sequence[sa.Row[Any]]) -> list[UsageRecord]:
        attempts = self._attempts.read(connection, [(row.at_ms, row.attempts, row.user_id) for row in rows])
        return [_record(row, each) for row, each in zip(rows, attempts, strict=True)]


def _is_failure(wanted: RecordFilter) -> bool:
    return wanted.outcome is not None and wanted.outcome not in FREQUENT_OUTCOMES


def _is_cube_whole(connection: Connection) -> bool:
    filling = connection.execute(sa.select(usage_cube_fill.c.filled, usage_cube_fill.c.until)).first()
    return filling is None or filling.filled >= filling.until


def _record(row: sa.Row[Any], attempts: list[AttemptRecord]) -> UsageRecord:
    plain = len(_PLAIN_FIELDS)
    fields = {name: value for name, value in zip(_PLAIN_FIELDS, row, strict=False) if value is not None}
    return UsageRecord(
        instance=row.instance,
        usage=Usage(**dict(zip(_KINDS, row[plain:], strict=False))),
        tags=msgspec.json.decode(row.tags) if row.tags else {},
        attempts=attempts,
        **fields,
    )

"""Store usage records in batches, delete old ones, and query usage reports.

The journal's shipper writes the batches. Each is one transaction, which counts a record once even if it is sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy import func
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DataError, IntegrityError

from llm_gateway.domain.usage import AttemptRecord, SentAttempt, Usage, UsageRecord
from llm_gateway.errors import RecordsRefused, StoreUnavailable
from llm_gateway.store.bulk import BulkInsert, Pause, no_pause, with_pauses
from llm_gateway.store.database import Database, usage_records
from llm_gateway.store.rollup_table import SUMS, RollupTable
from llm_gateway.store.rollups import COUNTERS, CUSTOMER, DAY_MS, HOUR_MS, PROVIDER, SERVICE, Totals, hourly

LONGEST_REQUEST_MS = 600_000
"""Maximum milliseconds between the start of a request and the start of its last attempt."""

ROWS_AT_ONCE = 256
"""Rows built, stored and freed together; freeing thousands of rows at once would block the event loop."""

KnownIds: TypeAlias = Callable[[Connection, list[str]], list[str]]
"""Return those of the ids that are stored already."""

USAGE_KINDS = Usage.__struct_fields__
PLAIN_FIELDS = tuple(
    name
    for name in UsageRecord.__struct_fields__
    if name not in {"organization", "project", "usage", "tags", "attempts"}
)
RECORD_COLUMNS = (*PLAIN_FIELDS, *USAGE_KINDS, "tags", "attempts", "last_attempt_ms")


class NamedTotals(msgspec.Struct, frozen=True):
    """A row of a report: the name of a provider or service, and its totals."""

    name: str
    totals: Totals


class CustomerTotals(msgspec.Struct, frozen=True):
    """A row of the report by customer. There can be many customers, so only the counters it shows are summed."""

    name: str
    requests: int
    cost_nanos: int


class UsageStore:
    """Usage records and reports in the database.

    The period of a report is the last `days` × 24 hours, starting at a full hour, until the end of the current day
    (UTC), since a writer's clock may be a little ahead of the reader's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known_ids = _known_in_sqlite() if database.is_sqlite else _known_in_postgres()
        placeholder = "?" if database.is_sqlite else "%s"
        self._records = BulkInsert(usage_records, RECORD_COLUMNS, "ON CONFLICT (id) DO NOTHING", placeholder)
        self._rollups = RollupTable(database)

    def write(self, records: Sequence[UsageRecord], pause: Pause = no_pause) -> None:
        """Store the records that are not stored yet and add them to the rollups, in one transaction.

        Batches of some thousand records are cheapest. `pause` is called after every few records.

        Raises:
            RecordsRefused: at least one record can never be stored or summed; nothing was stored.
            StoreUnavailable: the database does not answer; the batch may or may not be stored and can be sent again.
        """
        by_id: dict[str, UsageRecord] = {}
        for record in records:
            by_id.setdefault(record.id, record)
        try:
            with self._database.write() as connection:
                self._write(connection, by_id, pause)
        except (IntegrityError, DataError, OverflowError, UnicodeEncodeError) as error:
            cause = getattr(error, "orig", None) or error
            raise RecordsRefused(f"The database refuses at least one of the usage records: {cause}.") from error

    def recent_attempts(self, since_ms: int, longest_request_ms: int = LONGEST_REQUEST_MS) -> list[SentAttempt]:
        """Return the attempts sent since `since_ms` (milliseconds UTC), to restore rate limits after a restart.

        Attempts that started more than `longest_request_ms` after their request are not found.
        """
        records = usage_records.c
        query = sa.select(records.attempts).where(
            records.id >= first_id(since_ms - longest_request_ms), records.last_attempt_ms >= since_ms
        )
        with self._database.read() as connection:
            texts = connection.execute(query).scalars().all()
        decoder = msgspec.json.Decoder(list[AttemptRecord])
        return [
            SentAttempt(attempt.provider_id, attempt.started_ms, attempt.limit_tokens)
            for text in texts
            for attempt in decoder.decode(text)
            if attempt.sent and attempt.started_ms >= since_ms
        ]

    def oldest_and_newest_ms(self) -> tuple[int, int] | None:
        """Return the times of the oldest and the newest stored request (milliseconds UTC); None if none is stored."""
        ids = usage_records.c.id
        with self._database.read() as connection:
            oldest = connection.execute(sa.select(ids).order_by(ids).limit(1)).scalar()
            newest = connection.execute(sa.select(ids).order_by(ids.desc()).limit(1)).scalar()
        return None if oldest is None or newest is None else (_time_of(oldest), _time_of(newest))

    def prune(self, before_ms: int, limit: int) -> int:
        """Delete up to `limit` records from before `before_ms`, oldest first. Returns how many. Rollups stay."""
        ids = usage_records.c.id
        oldest = sa.select(ids).where(ids < first_id(before_ms)).order_by(ids).limit(limit)
        with self._database.write() as connection:
            return connection.execute(sa.delete(usage_records).where(ids.in_(oldest))).rowcount

    def build_block(self, until_ms: int) -> bool:
        """Build the next block of days that ends by `until_ms`, for faster reports; False if none is missing."""
        with self._database.write() as connection:
            return self._rollups.build_block(connection, until_ms)

    def summary(self, days: int, now_ms: int) -> Totals:
        """Return the totals of all requests in the period."""
        with self._database.read() as connection:
            sums = self._rollups.sums(connection, SERVICE, _period(days, now_ms), COUNTERS)
            return Totals(*tuple(connection.execute(sa.select(*SUMS.values()).select_from(sums)).one()))

    def by_provider(self, days: int, now_ms: int) -> list[NamedTotals]:
        """Return each provider's billed tokens, cost and requests; sorted by cost, then count, highest first."""
        return [_named(row) for row in self._report(PROVIDER, days, now_ms)]

    def by_service(self, days: int, now_ms: int) -> list[NamedTotals]:
        """Return the totals of each calling service; sorted by cost, then count, highest first."""
        return [_named(row) for row in self._report(SERVICE, days, now_ms)]

    def by_customer(self, days: int, now_ms: int, limit: int) -> list[CustomerTotals]:
        """Return the totals of the first `limit` customers, sorted by cost, then count, highest first."""
        rows = self._report(CUSTOMER, days, now_ms, ("requests", "cost_nanos"), limit)
        return [CustomerTotals(*row) for row in rows]

    def _report(
        self,
        dimension: str,
        days: int,
        now_ms: int,
        counters: tuple[str, ...] = COUNTERS,
        limit: int | None = None,
    ) -> list[tuple[Any, ...]]:
        with self._database.read() as connection:
            sums = self._rollups.sums(connection, dimension, _period(days, now_ms), counters)
            query = (
                sa.select(sums.c.name, *(SUMS[counter] for counter in counters))
                .group_by(sums.c.name)
                .having(sa.or_(*(func.sum(sa.literal_column(counter)) != 0 for counter in counters)))
                .order_by(sa.desc("cost_nanos"), sa.desc("requests"), sums.c.name)
                .limit(limit)
            )
            return [tuple(row) for row in connection.execute(query)]

    def _write(self, connection: Connection, by_id: dict[str, UsageRecord], pause: Pause) -> None:
        for known in self._known_ids(connection, list(by_id)):
            del by_id[known]
        records, inserted = [*by_id.values()], 0
        for start in range(0, len(records), ROWS_AT_ONCE):
            rows = [_record_row(record) for record in with_pauses(records[start : start + ROWS_AT_ONCE], pause)]
            inserted += self._records.run(connection, rows, pause)
        if inserted != len(by_id):
            raise StoreUnavailable("Another writer stores the same usage records at this moment; try again.")
        self._rollups.add(connection, hourly(with_pauses(by_id.values(), pause)), pause)


_plain_values = attrgetter(*PLAIN_FIELDS, *(f"usage.{kind}" for kind in USAGE_KINDS))
_encoder = msgspec.json.Encoder()


def _record_row(record: UsageRecord) -> tuple[Any, ...]:
    tags = _encoder.encode(record.tags).decode() if record.tags else None
    if not record.attempts:
        return (*_plain_values(record), tags, None, None)
    attempts = _encoder.encode(record.attempts).decode()
    return (*_plain_values(record), tags, attempts, max(attempt.started_ms for attempt in record.attempts))


def _known_in_sqlite() -> KnownIds:
    """Build the query once: a SQLAlchemy statement is full of reference cycles, which only the GC frees."""
    # All ids come in one row, since fetching each row takes the GIL again.
    listed = sa.select(func.json_each(sa.bindparam("ids")).table_valued("value").c.value)
    query = sa.select(func.json_group_array(usage_records.c.id)).where(usage_records.c.id.in_(listed))

    def known(connection: Connection, ids: list[str]) -> list[str]:
        text: str = connection.execute(query, {"ids": _encoder.encode(ids).decode()}).scalar_one()
        return msgspec.json.decode(text, type=list[str])

    return known


def _known_in_postgres() -> KnownIds:
    """Build the query once, as for SQLite."""
    query = sa.select(usage_records.c.id).where(
        usage_records.c.id == sa.any_(sa.bindparam("ids", type_=sa.ARRAY(sa.Text)))
    )
    return lambda connection, ids: list(connection.execute(query, {"ids": ids}).scalars())


def first_id(at_ms: int) -> str:
    """Return the lower bound of all UUIDv7 ids made at millisecond `at_ms` or later (RFC 9562, section 5.7)."""
    digits = f"{max(0, at_ms):012x}"
    return f"{digits[:8]}-{digits[8:]}"


def _time_of(record_id: str) -> int:
    """Return the time of a UUIDv7 id in milliseconds UTC (RFC 9562, section 5.7)."""
    return int(record_id[:8] + record_id[9:13], 16)


def _period(days: int, now_ms: int) -> tuple[int, int]:
    """Return (start, end) of a report's period in milliseconds UTC, the end excluded."""
    return now_ms // HOUR_MS * HOUR_MS - days * DAY_MS, (now_ms // DAY_MS + 1) * DAY_MS


def _named(row: tuple[Any, ...]) -> NamedTotals:
    return NamedTotals(row[0], Totals(*row[1:]))

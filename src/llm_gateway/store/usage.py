"""Store usage records in batches, delete old ones, and query usage reports.

The journal's shipper writes the batches. Each is one transaction, which counts a record once even if it is sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import chain
from typing import Any, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy import func
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DataError, IntegrityError

from llm_gateway.domain.usage import KeyCall, SentAttempt, Usage, UsageRecord
from llm_gateway.errors import RecordsRefused, StoreUnavailable
from llm_gateway.store.attempts_json import AttemptTexts, Places
from llm_gateway.store.batch_sums import BatchSums
from llm_gateway.store.budget_charges import Charges, charges_of
from llm_gateway.store.budget_spend import BudgetSpend, SpendTable
from llm_gateway.store.bulk import Pause, no_pause, with_pauses
from llm_gateway.store.cube import CubeKey, cube_sums
from llm_gateway.store.cube_fill import CubeFill, FilledStep
from llm_gateway.store.cube_margins import CubeMargins
from llm_gateway.store.cube_table import CubeTable, cube_names
from llm_gateway.store.database import Database
from llm_gateway.store.driver_sql import CompiledQuery
from llm_gateway.store.last_days import LastDays
from llm_gateway.store.numbered_texts import NumberedTexts
from llm_gateway.store.rollup_table import RollupTable, rollup_names
from llm_gateway.store.rollups import COUNTERS, CUSTOMER, DAY_MS, HOUR_MS, PROVIDER, SERVICE, Totals
from llm_gateway.store.set_insert import row_insert, stored_ids
from llm_gateway.store.tables import usage_names, usage_records

LONGEST_REQUEST_MS = 600_000
"""Maximum milliseconds between the start of a request and the start of its last attempt."""

ROWS_AT_ONCE = 64
"""Records encoded, stored and summed together, while the processor's cache holds them: one statement's rows."""
ROWS_AT_ONCE_ON_POSTGRES = 1024
"""Rows of one statement on PostgreSQL, where each is a way to the server and back."""

AlsoCharge: TypeAlias = Callable[[Connection, Sequence[UsageRecord], Charges, Pause], None]
"""Gets records and what they were charged to the accounts of budgets, in the transaction that stores them."""

KnownIds: TypeAlias = Callable[[Connection, list[str]], list[str]]
"""Return those of the ids that are stored already."""

_Stored: TypeAlias = tuple[Mapping[CubeKey, Totals], dict[str, int]]
"""What a batch adds to the cube, and the numbers of names."""

FIELDS = UsageRecord.__struct_fields__
INSTANCE, USAGE, TAGS, STREAM, ATTEMPTS = map(FIELDS.index, ("instance", "usage", "tags", "stream", "attempts"))
RECORD_COLUMNS = (
    *("instance_id" if name == "usage" else name for name in FIELDS),
    *Usage.__struct_fields__,
    "last_attempt_ms",
)
"""Columns of a row, in the order of a record's fields. The place of `usage` is free for the instance's number."""

OFTEN_NULL = frozenset(
    {"client_request_id", "session", "agent", "tags", "requested_model", "override_id", "error_code"}
    | {"first_token_ms", "key_id", "team_id", "traceparent", "refused_by"}
)


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

    def __init__(self, database: Database, also_charge: AlsoCharge = lambda *_: None) -> None:
        self._database = database
        self._also_charge = also_charge
        self._known_ids = _known_in_sqlite(database) if database.is_sqlite else _known_in_postgres
        self._newest_id = CompiledQuery(database, _NEWEST_ID)
        self._records = row_insert(database, usage_records, RECORD_COLUMNS, "ON CONFLICT (id) DO NOTHING", OFTEN_NULL)
        self._store_bool = int if database.is_sqlite else bool  # the sqlite3 module looks for an adapter for a bool
        self._attempts = AttemptTexts(database)
        self._names = NumberedTexts(database, usage_names)
        self._rollups = RollupTable(database)
        self._last_days = LastDays(database, self._rollups)
        self._cube = CubeTable(database)
        self._spend = SpendTable(database)
        self._cube_fill = CubeFill(database)
        self._margins = CubeMargins(database)

    def write(self, records: Sequence[UsageRecord], pause: Pause = no_pause) -> None:
        """Store the records that are not stored yet and add them to rollups and cube, in one transaction.

        Batches of some thousand records are cheapest. `pause` is called after every few records.

        Raises:
            RecordsRefused: at least one record can never be stored or summed; nothing was stored.
            StoreUnavailable: the database does not answer; the batch may or may not be stored and can be sent again.
        """
        by_id = {record.id: record for record in reversed(records)}  # of two with one id the first
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
        query = sa.select(records.at_ms, records.attempts, records.user_id).where(
            records.id >= first_id(since_ms - longest_request_ms), records.last_attempt_ms >= since_ms
        )
        with self._database.read() as connection:
            texts = [(row.at_ms, row.attempts, row.user_id) for row in connection.execute(query)]
            attempts = chain.from_iterable(self._attempts.read(connection, texts))
        return [
            SentAttempt(attempt.provider_id, attempt.started_ms, attempt.limit_tokens)
            for attempt in attempts
            if attempt.sent and attempt.started_ms >= since_ms
        ]

    def recent_key_calls(self, since_ms: int) -> list[KeyCall]:
        """Return the requests of keys since `since_ms` (milliseconds UTC), to restore their limits after a start."""
        records = usage_records.c
        query = sa.select(records.key_id, records.at_ms, records.input_tokens + records.output_tokens).where(
            records.id >= first_id(since_ms), records.at_ms >= since_ms, records.key_id.is_not(None)
        )
        with self._database.read() as connection:
            return [KeyCall(*row) for row in connection.execute(query)]

    def oldest_and_newest_ms(self) -> tuple[int, int] | None:
        """Return the times of the oldest and the newest stored request (milliseconds UTC); None if none is stored."""
        ids = usage_records.c.id
        with self._database.read() as connection:
            oldest = connection.execute(sa.select(ids).order_by(ids).limit(1)).scalar()
            newest = connection.execute(sa.select(ids).order_by(ids.desc()).limit(1)).scalar()
        return None if oldest is None or newest is None else (time_of(oldest), time_of(newest))

    def prune(self, before_ms: int, limit: int) -> int:
        """Delete up to `limit` records from before `before_ms`, oldest first. Returns how many. Rollups stay."""
        ids = usage_records.c.id
        oldest = sa.select(ids).where(ids < first_id(before_ms)).order_by(ids).limit(limit)
        if not self._database.is_sqlite:
            oldest = oldest.with_for_update(skip_locked=True)  # another host may do the same
        with self._database.write() as connection:
            return connection.execute(sa.delete(usage_records).where(ids.in_(oldest))).rowcount

    def prune_spending(self, before_ms: int, now_ms: int) -> int:
        """Delete what was spent of budgets in old periods (`BudgetSpend.prune`). Returns the number of rows."""
        return BudgetSpend(self._database).prune(before_ms, now_ms)

    def build_block(self, until_ms: int) -> bool:
        """Build the next block of days that ends by `until_ms`, for faster reports; False if none is missing."""
        with self._database.write() as connection:
            return self._rollups.build_block(connection, until_ms)

    def build_margins(self, until_ms: int) -> bool:
        """Sum the next day of the cube that ends by `until_ms` by its margins; False if none is missing."""
        return self._margins.step(until_ms)

    def fill_cube(self, pause: Pause = no_pause) -> FilledStep | None:
        """Add the next records that were stored before the cube existed to it; None if none is left."""
        return self._cube_fill.step(pause=pause)

    def summary(self, days: int, now_ms: int) -> Totals:
        """Return the totals of all requests in the period."""
        with self._database.read() as connection:
            return self._last_days.summary(connection, recent_period(days, now_ms))

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
            return self._last_days.by_name(connection, dimension, recent_period(days, now_ms), counters, limit)

    def _write(self, connection: Connection, by_id: dict[str, UsageRecord], pause: Pause) -> None:
        filling = self._cube.filling(connection)
        for known in self._stored_already(connection, by_id):
            del by_id[known]
        records = [by_id[each] for each in sorted(by_id)]
        charges = charges_of(with_pauses(records, pause))
        store = self._store_in_parts if self._database.is_sqlite else self._store_at_once
        cube, names = store(connection, records, {account.budget_id for account in charges}, pause)
        counted = cube if filling.is_over else cube_sums(filter(filling.is_counted, with_pauses(records, pause)))
        self._cube.add(connection, counted, pause, names)
        self._spend.add(connection, charges, pause)
        if charges:
            self._also_charge(connection, records, charges, pause)

    def _store_in_parts(
        self, connection: Connection, records: Sequence[UsageRecord], budgets: Set[str], pause: Pause
    ) -> _Stored:
        """Store records in SQLite, and sum each part while the processor's cache holds it."""
        del budgets  # each part looks up its own
        sums, places = BatchSums(), Places()
        instances = self._names.numbers(connection, _instances(records), pause, known=places.names)
        for start in range(0, len(records), ROWS_AT_ONCE):
            part = records[start : start + ROWS_AT_ONCE]
            texts = self._attempts.write(connection, part, pause, places)
            self._insert(connection, part, texts, instances, pause)
            sums.add(with_pauses(part, pause))
        sums.finish(pause)
        self._rollups.add(connection, sums.rollups, pause, sums.minutes, places.names)
        return sums.cube, places.names

    def _store_at_once(
        self, connection: Connection, records: Sequence[UsageRecord], budgets: Set[str], pause: Pause
    ) -> _Stored:
        """Store records in Postgres: first give all of their new names and origins numbers, then store all else.

        So transactions store new ones in one order, and none waits for another one that waits for it: a service's name
        may be that of a key, too.
        """
        sums, places = BatchSums(customers=False), Places()
        sums.add(with_pauses(records, pause))
        sums.finish(pause)
        names = _instances(records) | budgets | rollup_names(sums.rollups) | cube_names(sums.cube)
        numbers = self._names.numbers(connection, names, pause, known=places.names)
        texts = self._attempts.write(connection, records, pause, places)
        for start in range(0, len(records), ROWS_AT_ONCE_ON_POSTGRES):
            part = slice(start, start + ROWS_AT_ONCE_ON_POSTGRES)
            self._insert(connection, records[part], texts[part], numbers, pause)
        self._rollups.add_batch(connection, records, sums.rollups, pause, places.names)
        return sums.cube, places.names

    def _insert(
        self,
        connection: Connection,
        records: Sequence[UsageRecord],
        texts: Sequence[str | None],
        instances: Mapping[str, int],
        pause: Pause,
    ) -> None:
        rows = [
            _record_row(record, instances[record.instance], text, self._store_bool)
            for record, text in with_pauses(zip(records, texts, strict=True), pause)
        ]
        if self._records.run(connection, rows, pause) != len(rows):
            raise StoreUnavailable("Another writer stores the same usage records at this moment; try again.")

    def _stored_already(self, connection: Connection, by_id: dict[str, UsageRecord]) -> list[str]:
        """Return the ids that are stored. Ids ascend with time, so that only those up to the newest are looked up."""
        ((newest,),) = self._newest_id.rows(connection)
        possible = [] if newest is None else [record_id for record_id in by_id if record_id <= newest]
        return self._known_ids(connection, possible) if possible else []


_encoder = msgspec.json.Encoder()
_values = msgspec.structs.astuple


def _instances(records: Iterable[UsageRecord]) -> set[str]:
    return {record.instance for record in records}


def _record_row(record: UsageRecord, instance: int, texts: str | None, store_bool: type) -> list[Any]:
    attempts = record.attempts
    row: list[Any] = [*_values(record), *_values(record.usage)]
    row[INSTANCE], row[USAGE], row[STREAM], row[ATTEMPTS] = "", instance, store_bool(record.stream), texts
    row[TAGS] = _encoder.encode(record.tags).decode() if record.tags else None
    if len(attempts) == 1:  # nearly always
        row.append(attempts[0].started_ms)
    else:
        row.append(max((attempt.started_ms for attempt in attempts), default=None))
    return row


_NEWEST_ID = sa.select(func.max(usage_records.c.id))
_LISTED = sa.select(func.json_each(sa.bindparam("ids")).table_valued("value").c.value)
_KNOWN = sa.select(func.json_group_array(usage_records.c.id)).where(usage_records.c.id.in_(_LISTED))
"""SQLite's query for those of `ids` that are stored: in one row, since fetching each row takes the GIL again."""


def _known_in_sqlite(database: Database) -> KnownIds:
    query = CompiledQuery(database, _KNOWN)

    def known(connection: Connection, ids: list[str]) -> list[str]:
        ((text,),) = query.rows(connection, ids=_encoder.encode(ids).decode())
        return msgspec.json.decode(text, type=list[str])

    return known


def _known_in_postgres(connection: Connection, ids: list[str]) -> list[str]:
    return stored_ids(connection, usage_records.name, ids)


def first_id(at_ms: int) -> str:
    """Return the lower bound of all UUIDv7 ids made at millisecond `at_ms` or later (RFC 9562, section 5.7)."""
    digits = f"{max(0, at_ms):012x}"
    return f"{digits[:8]}-{digits[8:]}"


def time_of(record_id: str) -> int:
    """Return the time of a UUIDv7 id in milliseconds UTC (RFC 9562, section 5.7)."""
    return int(record_id[:8] + record_id[9:13], 16)


def recent_period(days: int, now_ms: int) -> tuple[int, int]:
    """Return (start, end) of a report's period in milliseconds UTC, the end excluded."""
    return now_ms // HOUR_MS * HOUR_MS - days * DAY_MS, (now_ms // DAY_MS + 1) * DAY_MS


def _named(row: tuple[Any, ...]) -> NamedTotals:
    return NamedTotals(row[0], Totals(*row[1:]))

"""Copy a day of usage to other days within the database: its records, and their sums in rollups and cube.

A database copies five to ten times as many records a second as a gateway writes. The attempts of a record are stored
with times relative to its own (`store/attempts_json.py`), so that they stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.store.cube import LONG, WHOLE
from llm_gateway.store.cube_table import COLUMNS as CUBE_COLUMNS
from llm_gateway.store.rollup_rows import NUMBERS
from llm_gateway.store.rollup_table import COLUMNS as ROLLUP_COLUMNS
from llm_gateway.store.rollups import COUNTERS, CUSTOMER, DAY, DAY_MS, HOUR, PROVIDER, SERVICE
from llm_gateway.store.tables import usage_cube, usage_records, usage_rollups

BASE = "copied_day"

SQLITE_SETUP = ("PRAGMA synchronous=OFF", "PRAGMA cache_size=-1000000", "PRAGMA busy_timeout=60000")
POSTGRES_SETUP = ("SET synchronous_commit=off", "SET maintenance_work_mem='512MB'")

SQLITE_INDEXES = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = :table AND sql IS NOT NULL"
POSTGRES_INDEXES = """
SELECT indexname, indexdef FROM pg_indexes
WHERE tablename = :table AND indexname NOT IN (SELECT conname FROM pg_constraint)
"""

TIME = "(at_ms + :shift)"
SQLITE_ID = f"printf('%08x-%04x', {TIME} >> 16, {TIME} & 65535) || substr(id, 14)"
POSTGRES_ID = f"lpad(to_hex({TIME} >> 16), 8, '0') || '-' || lpad(to_hex({TIME} & 65535), 4, '0') || substr(id, 14)"
SQLITE_RANDOM = "lower(hex(randomblob(6)))"
POSTGRES_RANDOM = "lpad(to_hex((random() * 281474976710655)::bigint), 12, '0')"
"""Twelve random hexadecimal digits: the end of a client's id, which is never the same twice."""


class DayCopies:
    """Copies of one day (UTC) in the database at `url`, whose tables are migrated."""

    def __init__(self, url: str) -> None:
        parsed = sa.make_url(url)
        self._is_sqlite = parsed.drivername == "sqlite"
        driver = parsed if self._is_sqlite else parsed.set(drivername="postgresql+psycopg")
        self._engine = sa.create_engine(driver, isolation_level="AUTOCOMMIT")

    def make(self, day: int, days: range, say: Callable[[int], None]) -> None:
        """Copy what is stored of `day` (days since 1970) to each of `days`; `say` is told the number of days done."""
        with self._engine.connect() as connection:
            for statement in SQLITE_SETUP if self._is_sqlite else POSTGRES_SETUP:
                _run(connection, statement)
            indexes = self._indexes(connection)
            for name in indexes:
                _run(connection, f"DROP INDEX {name}")
            limits = f"at_ms >= {day * DAY_MS} AND at_ms < {(day + 1) * DAY_MS}"
            _run(connection, f"CREATE TEMP TABLE {BASE} AS SELECT * FROM usage_records WHERE {limits} ORDER BY id")
            for done, copy in enumerate(days):
                say(done)
                self._copy(connection, day, copy - day)
            say(len(days))
            self._sum_days(connection)
            for definition in indexes.values():
                _run(connection, definition)
            if not self._is_sqlite:
                _run(connection, "VACUUM (ANALYZE)")
        self._engine.dispose()

    def _indexes(self, connection: Connection) -> dict[str, str]:
        query = SQLITE_INDEXES if self._is_sqlite else POSTGRES_INDEXES
        return {row[0]: row[1] for row in connection.execute(sa.text(query), {"table": usage_records.name})}

    def _copy(self, connection: Connection, day: int, shift: int) -> None:
        moved = {
            "id": SQLITE_ID if self._is_sqlite else POSTGRES_ID,
            "at_ms": TIME,
            "last_attempt_ms": "last_attempt_ms + :shift",
            "client_request_id": f"substr(client_request_id, 1, 24) || {self._random}",
            "session": f"substr(session, 1, 28) || substr(session, 32, 5) || '{shift % 4096:03x}'",
        }
        values = ", ".join(moved.get(column.name, column.name) for column in usage_records.c)
        names = ", ".join(column.name for column in usage_records.c)
        _run(connection, f"INSERT INTO usage_records ({names}) SELECT {values} FROM {BASE}", shift=shift * DAY_MS)
        for dimension in (SERVICE, CUSTOMER, PROVIDER):
            for grain in (HOUR, DAY):
                buckets = DAY.hours // grain.hours
                self._copy_sums(
                    connection,
                    (usage_rollups.name, ROLLUP_COLUMNS, "bucket"),
                    f"dimension = {NUMBERS[dimension]} AND hours = {grain.hours}",
                    (day * buckets, buckets, shift),
                )
        for grain in (HOUR, DAY):
            buckets = DAY.hours // grain.hours
            self._copy_sums(
                connection,
                (usage_cube.name, CUBE_COLUMNS, "bucket"),
                f"hours = {grain.hours}",
                (day * buckets, buckets, shift),
            )

    def _sum_days(self, connection: Connection) -> None:
        """Make the rows of the cube anew that are sums of eight of its days."""
        days, names = LONG.hours // DAY.hours, ", ".join(WHOLE.names)
        sums = ", ".join(f"CAST(sum({name}) AS bigint)" for name in COUNTERS)
        _run(connection, f"DELETE FROM usage_cube WHERE hours = {LONG.hours}")
        _run(
            connection,
            f"INSERT INTO usage_cube ({', '.join(CUBE_COLUMNS)}) "
            f"SELECT {LONG.hours}, bucket / {days}, {names}, {sums} FROM usage_cube "
            f"WHERE hours = {DAY.hours} GROUP BY bucket / {days}, {names}",
        )

    def _copy_sums(
        self,
        connection: Connection,
        table: tuple[str, tuple[str, ...], str],
        which: str,
        place: tuple[int, int, int],
    ) -> None:
        """Copy rows of sums. `table` is (name, columns, column of the bucket), `place` (first bucket, number, days)."""
        (name, columns, bucket), (first, number, shift) = table, place
        values = ", ".join(f"{bucket} + {shift * number}" if column == bucket else column for column in columns)
        limits = f"{which} AND {bucket} >= {first} AND {bucket} < {first + number}"
        _run(connection, f"INSERT INTO {name} ({', '.join(columns)}) SELECT {values} FROM {name} WHERE {limits}")

    @property
    def _random(self) -> str:
        return SQLITE_RANDOM if self._is_sqlite else POSTGRES_RANDOM


def _run(connection: Connection, statement: str, **values: int) -> None:
    connection.execute(sa.text(statement), values)

"""Transactions on SQLite or Postgres.

`Database` opens, migrates and hands out transactions; the tables are in `tables.py`, the queries in `providers.py`,
`overrides.py`, `usage.py`, `rollup_table.py` and `cube_table.py`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, DisconnectionError, IntegrityError, ProgrammingError
from sqlalchemy.pool import NullPool, QueuePool
from sqlalchemy.util import LRUCache

from llm_gateway.errors import ConfigurationError, StoreUnavailable
from llm_gateway.store import migrations
from llm_gateway.store.diagnosis import explained
from llm_gateway.store.postgres import (
    WRITE_LIMIT_S,
    TimeLimits,
    is_refused_by_server,
    open_postgres,
    parsed_url,
    place_of,
    refuse_other_encoding,
    wait_for_migration_turn,
)

BUSY_TIMEOUT_S = 5.0
"""Maximum seconds a writer waits for another writer's lock."""

READ_LIMIT_S = 5.0
"""Maximum seconds of a read."""

CHECK_LIMIT_S = 1.0
"""Maximum seconds of a health check."""

LOG_LIMIT = 16 * 1024 * 1024
"""Bytes of SQLite's write-ahead log above which it is emptied. The log of usual traffic starts anew at 8 MB."""

LOG_WAIT_S = 2.0
"""Maximum seconds that emptying the log waits for reads to end; writers wait meanwhile, new reads do not."""

WRITER_CACHE_KIB = 16 * 1024
"""Pages that a SQLite writer may keep changed until it commits (KiB); SQLite's 2,000 hold half of a batch's.

Each page beyond is written at once, and again whenever the batch comes back to it."""

COMPILED_STATEMENTS = 500
"""Number of compiled statements that are kept, SQLAlchemy's default for one engine."""

STEPS_BETWEEN_LOOKS = 500_000
"""SQLite instructions between two checks of a read's time limit: some 10 ms; each check needs the GIL."""

POSTGRES = frozenset({"postgresql", "postgres", "postgresql+psycopg"})
"""Schemes of the URLs of Postgres."""


class Limits(NamedTuple):
    """Maximum seconds of a wait for a lock, and of a read."""

    busy_s: float
    read_s: float


class Database:
    """Transactions on one database. Thread-safe; create it with `open`, end with `close`."""

    def __init__(
        self, writer: Engine, reader: Engine, limits: Limits, place: str, log_file: Path | None = None
    ) -> None:
        self._place = place
        self._log_file = log_file
        self._writer = writer
        self._reader = reader
        self._limits = limits
        self._time_limits = TimeLimits()

    @classmethod
    def open(
        cls,
        url: str,
        *,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        read_limit_s: float = READ_LIMIT_S,
        fsync: bool = True,
    ) -> Self:
        """Open the database at `url`. A missing SQLite file (mode 0600) and its directories are created.

        `busy_timeout_s` bounds the wait for another writer's lock, `read_limit_s` one read. Without `fsync`, for tests,
        SQLite may lose commits at a power failure.

        Raises:
            ConfigurationError: the URL is neither `sqlite:///path` nor `postgresql://…`, or the file cannot be created.
        """
        parsed = _parsed(url)
        limits = Limits(busy_timeout_s, read_limit_s)
        if _is_sqlite_file(parsed):
            path = Path(str(parsed.database)).absolute()
            engines = _open_sqlite(path, busy_timeout_s, fsync)
            return cls(*engines, limits, f"The database file {path}", Path(f"{path}-wal"))
        if parsed.drivername in POSTGRES:
            return cls(*open_postgres(parsed, busy_timeout_s), limits, place_of(parsed))
        raise _unfit_url()

    @property
    def is_sqlite(self) -> bool:
        """True for SQLite, False for Postgres."""
        return self._writer.dialect.name == "sqlite"

    @property
    def dialect(self) -> sa.Dialect:
        """The dialect of SQL, to compile queries for."""
        return self._writer.dialect

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a write transaction: committed durably when the block ends, rolled back if it raises.

        Raises:
            StoreUnavailable: the database does not answer, or is locked for longer than the busy timeout.
        """
        with _as_store_unavailable(), self._writer.begin() as connection, self._write_limit(connection):
            yield connection

    @contextmanager
    def read(self, limit_s: float | None = None) -> Iterator[Connection]:
        """Open a read-only transaction on one consistent state of the database.

        Raises:
            StoreUnavailable: the database does not answer, or takes longer than `limit_s` seconds.
        """
        limit = self._limits.read_s if limit_s is None else limit_s
        with _as_store_unavailable(), self._reader.begin() as connection, self._read_limit(connection, limit):
            yield connection

    def check(self) -> bool:
        """Return True if the database answers within about a second and has its tables."""
        try:
            with self.read(CHECK_LIMIT_S) as connection:
                return migrations.version(connection) is not None
        except (StoreUnavailable, DBAPIError):
            return False

    def version(self) -> str | None:
        """Return the version of the tables, None if there are none yet.

        Raises:
            ConfigurationError: the database cannot be used as it is.
            StoreUnavailable: the database does not answer; the message says why.
        """
        with explained(self._place), self.read() as connection:
            return migrations.version(connection)

    def is_current(self) -> bool:
        """Return True if this code can use the tables as they are. Raises what `version` raises."""
        with explained(self._place), self.read() as connection:
            return migrations.is_usable(connection)

    def check_upgrade(self) -> None:
        """Check whether `migrate` could change the tables; change nothing.

        Raises:
            ConfigurationError: as `migrate`.
            StoreUnavailable: as `version`.
        """
        with explained(self._place), self.read() as connection:
            migrations.refuse_newer(migrations.version(connection))
            migrations.refuse_older_hosts(connection)

    def migrate(self, log: migrations.Log | None = None) -> None:
        """Migrate the tables to the version of this code, and tell `log` the progress and waits. Processes take turns.

        Raises:
            ConfigurationError: the database was made by a newer version or by something else, or cannot be used, or
                hosts run on it that could not use its tables afterwards.
            StoreUnavailable: the database does not answer.
        """
        if self.is_current():
            return
        with explained(self._place), _as_store_unavailable(), self._writer.begin() as connection:
            if not self.is_sqlite:
                refuse_other_encoding(connection)
                wait_for_migration_turn(connection, log)
            migrations.upgrade(connection, log)

    def shorten_log(self, *, limit: int = LOG_LIMIT, wait_s: float = LOG_WAIT_S) -> int:
        """Empty SQLite's write-ahead log if it is longer than `limit` bytes. Returns its length afterwards.

        SQLite starts the log anew only at a moment without a read in it, and reads that overlap leave no such moment.
        While a truncating checkpoint waits for the reads under way, new ones read the database file alone
        (sqlite.org/wal.html, "Avoiding Excessively Large WAL Files"). Reads longer than `wait_s` seconds, such as a
        backup's, keep the log as it is.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        if self._log_file is None or (length := _size(self._log_file)) <= limit:
            return 0 if self._log_file is None else length
        try:
            with _as_store_unavailable(), closing(self._writer.raw_connection()) as pooled:
                connection: Any = pooled.driver_connection
                (usual_ms,) = connection.execute("PRAGMA busy_timeout").fetchone()
                try:
                    connection.execute(f"PRAGMA busy_timeout={round(wait_s * 1000)}")
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                finally:
                    connection.execute(f"PRAGMA busy_timeout={usual_ms}")
        except sqlite3.Error as error:
            raise StoreUnavailable("The database does not answer; try again later.", retry_after_s=1) from error
        return _size(self._log_file)

    def close(self) -> None:
        """Close all connections."""
        self._reader.dispose()
        self._writer.dispose()
        self._time_limits.close()

    def _read_limit(self, connection: Connection, limit_s: float) -> AbstractContextManager[None]:
        if self.is_sqlite:
            return _sqlite_time_limit(connection, limit_s)
        return self._time_limits.limit(connection, limit_s, min(limit_s, self._limits.busy_s))

    def _write_limit(self, connection: Connection) -> AbstractContextManager[None]:
        if self.is_sqlite:
            return nullcontext()
        return self._time_limits.limit(connection, WRITE_LIMIT_S, self._limits.busy_s)


def sqlite_file(url: str) -> Path | None:
    """Return the path in a SQLite URL, None for any other database. Parses the text only, opens nothing.

    Raises:
        ConfigurationError: the text is not a URL.
    """
    parsed = _parsed(url)
    return Path(str(parsed.database)) if _is_sqlite_file(parsed) else None


def check_url(url: str) -> None:
    """Look at the text of a database URL only.

    Raises:
        ConfigurationError: it is no URL of a database that the gateway can use.
    """
    parsed = _parsed(url)
    if not (_is_sqlite_file(parsed) or parsed.drivername in POSTGRES):
        raise _unfit_url()


def _parsed(url: str) -> URL:
    try:
        return parsed_url(url)
    except (ArgumentError, ValueError):  # ValueError: the port is not a number
        raise _unfit_url() from None


def _is_sqlite_file(url: URL) -> bool:
    return url.drivername == "sqlite" and url.database not in (None, "", ":memory:") and not url.query


def _unfit_url() -> ConfigurationError:
    return ConfigurationError("LLM_GATEWAY_DATABASE_URL must be sqlite:///path/to/file or postgresql://user@host/name.")


@contextmanager
def _as_store_unavailable() -> Iterator[None]:
    try:
        yield
    except (IntegrityError, DataError):
        raise
    except DBAPIError as error:
        if isinstance(error, ProgrammingError) and not is_refused_by_server(error):
            raise
        raise StoreUnavailable("The database does not answer; try again later.", retry_after_s=1) from error


def _open_sqlite(path: Path, busy_timeout_s: float, fsync: bool) -> tuple[Engine, Engine]:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _create_file(path)
    except OSError as error:
        raise ConfigurationError(
            f"The database {path} cannot be created ({error.strerror}): "
            "set LLM_GATEWAY_DATA_DIR to a writable directory."
        ) from None
    if not (path.is_file() and os.access(path, os.R_OK | os.W_OK) and os.access(path.parent, os.W_OK)):
        raise ConfigurationError(
            f"The database {path} is not a writable file in a writable directory: correct the permissions, or set "
            "LLM_GATEWAY_DATA_DIR to another directory."
        )
    setup = (
        f"PRAGMA synchronous={'FULL' if fsync else 'OFF'}",
        f"PRAGMA journal_size_limit={LOG_LIMIT}",
        f"PRAGMA cache_size=-{WRITER_CACHE_KIB}",
    )
    writer = _sqlite_engine(path, busy_timeout_s, setup, "BEGIN IMMEDIATE")
    reader = _sqlite_engine(path, min(busy_timeout_s, CHECK_LIMIT_S), ("PRAGMA query_only=ON",), "BEGIN")
    return writer, reader


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # no connection has opened the database yet
        return 0


def _create_file(path: Path) -> None:
    with suppress(FileExistsError):  # another process has just created it
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _sqlite_engine(path: Path, busy_timeout_s: float, setup: Sequence[str], begin: str) -> Engine:
    # "rw" does not create files: a missing file must be an error, not an empty database.
    uri = f"{path.as_uri()}?mode=rw"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            uri, uri=True, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA page_size=8192")
            connection.execute("PRAGMA journal_mode=WAL")
            for statement in setup:
                connection.execute(statement)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    model = _model_engine()
    # The threads that use a database are few and bounded, so connections need no limit and no thread waits for one.
    create: Any = connect  # a connection of sqlite3 has all that SQLAlchemy needs, but not by its types
    pool = QueuePool(create, pool_size=2, max_overflow=-1, dialect=model.dialect)
    engine = Engine(pool, model.dialect, model.url, execution_options=model.get_execution_options())
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    _refuse_moved_file(engine, path)
    return engine


@cache
def _model_engine() -> Engine:
    """Return an engine whose dialect and compiled statements all engines of SQLite share: a statement is compiled once.

    Compiling one takes a millisecond, and a process has at least two engines, one to read and one to write.
    """
    compiled: LRUCache[Any, Any] = LRUCache(COMPILED_STATEMENTS)
    engine = sa.create_engine("sqlite://", poolclass=NullPool, execution_options={"compiled_cache": compiled})
    with engine.connect():  # the first connection tells the dialect which SQLite this is
        return engine


def _refuse_moved_file(engine: Engine, path: Path) -> None:
    """Drop pooled connections to a file that is no longer at `path`: their commits would be lost with that file."""

    def identity() -> tuple[int, int] | None:
        try:
            found = path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def remember(_connection: Any, record: Any) -> None:
        record.info["file"] = identity()

    def compare(_connection: Any, record: Any, _proxy: Any) -> None:
        if record.info["file"] is None or record.info["file"] != identity():
            raise DisconnectionError("the database file was moved")

    event.listen(engine, "connect", remember)
    event.listen(engine, "checkout", compare)


@contextmanager
def _sqlite_time_limit(connection: Connection, limit_s: float) -> Iterator[None]:
    raw: Any = connection.connection.driver_connection
    deadline = time.monotonic() + limit_s

    def is_over() -> bool:
        return time.monotonic() > deadline

    raw.set_progress_handler(is_over, STEPS_BETWEEN_LOOKS)
    try:
        yield
    finally:
        raw.set_progress_handler(None, 0)

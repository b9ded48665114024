"""Connections to Postgres, directly or through a pooler in transaction mode, such as PgBouncer.

Such a pooler gives each transaction another session, so nothing may be left in one: time limits are set for the
transaction, statements are not prepared, locks end with the transaction, and the start-up of a connection names no
option that the pooler would refuse (pgbouncer.org/config.html, "ignore_startup_parameters").
"""

from __future__ import annotations

import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError
from sqlalchemy.pool import QueuePool

from llm_gateway.errors import ConfigurationError
from llm_gateway.store.driver_sql import fetch_rows

WRITE_LIMIT_S = 30.0
"""Maximum seconds of a write transaction, and so of each of its statements."""

SILENCE_S = 1.0
"""Seconds beyond a transaction's limit after which its connection is cut."""

MIGRATION_LOCK = 0x6C6C6D67
"""Key of the advisory lock held during a migration ("llmg")."""

IDLE_LIMIT_S = 60.0
"""Seconds without a statement after which the server ends a migration, and gives its turn to the next host: the machine
of the host may be gone without a word. Between two statements a migration works for a second or so."""

LOOK_EVERY_S = 0.25
"""Seconds between two looks for transactions whose time is over."""

ENCODING = "UTF8"
DRIVER = "postgresql+psycopg"

DRIVER_MISSING = (
    "LLM_GATEWAY_DATABASE_URL names Postgres, whose driver is missing: install the package psycopg, as the gateway's "
    "extra 'postgres' does."
)

HOSTS_UNFIT = (
    "LLM_GATEWAY_DATABASE_URL has hosts and ports that do not fit together: give each host its port, such as "
    "postgresql://user@host1:5432,host2:5432/name."
)

_SEVERAL_HOSTS = re.compile(
    r"(?P<login>postgres(?:ql)?(?:\+psycopg)?://(?:[^@/?]*@)?)(?P<hosts>[^@/?]*,[^@/?]*)(?P<name>/[^?]*)?(?:\?(?P<rest>.*))?"
)
_HOST = re.compile(r"(?P<host>\[[^]]*\]|[^:]*)(?::(?P<port>.*))?")

_SET_LIMITS = """
SELECT set_config('statement_timeout', %s, true), set_config('lock_timeout', %s, true),
    set_config('jit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true),
    set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), true)
"""
"""A record leaves the journal once its commit returns, so that commit must outlast a crash of the server.

Reports read some 100,000 rows. To compile them to machine code, or to start processes beside, takes Postgres longer
than it saves: on two busy cores they took twice as long.
"""


def parsed_url(text: str) -> URL:
    """Return a database's URL. Several hosts, as libpq takes them (`//a:5432,b:5432/name`), become options of it.

    Raises:
        ArgumentError, ValueError: it is no URL.
    """
    found = _SEVERAL_HOSTS.fullmatch(text)
    if found is None:
        return make_url(text)
    hosts = [_HOST.fullmatch(each) for each in found["hosts"].split(",")]
    if not all(hosts):
        raise ArgumentError("a host cannot be read")
    names = ",".join(each["host"].strip("[]") for each in hosts if each)
    ports = ",".join(each["port"] or "" for each in hosts if each)
    ports = f"&port={ports}" if ports.strip(",") else ""
    rest = f"&{found['rest']}" if found["rest"] else ""
    return make_url(f"{found['login']}{found['name'] or '/'}?host={names}{ports}{rest}")


def place_of(url: URL) -> str:
    """Return the hosts in a URL, for messages."""
    options = url.query.get("host", ())
    hosts = options.split(",") if isinstance(options, str) else options
    away = [host for host in hosts or [url.host or ""] if host and not host.startswith("/")]
    return f"Postgres on {', '.join(away) or 'this machine'}"


def open_postgres(url: URL, busy_timeout_s: float) -> tuple[Engine, Engine]:
    """Return engines to write and to read with; reads see one state of the database. Nothing is connected yet.

    Raises:
        ConfigurationError: the driver is missing, or the hosts and ports of the URL do not fit together.
    """
    connect_args = connect_options(url, busy_timeout_s)
    try:
        writer = _engine(url, connect_args)
        reader = _engine(url, connect_args, isolation_level="REPEATABLE READ")
    except ModuleNotFoundError:
        raise ConfigurationError(DRIVER_MISSING) from None
    except ArgumentError:
        raise ConfigurationError(HOSTS_UNFIT) from None
    return writer, reader.execution_options(postgresql_readonly=True)


def connect_options(url: URL, connect_timeout_s: float = 5.0) -> dict[str, Any]:
    """Return the arguments of psycopg for a connection to `url`, which may say otherwise."""
    options = {
        "connect_timeout": max(1, round(connect_timeout_s)),
        "application_name": "llm-gateway",
        "client_encoding": ENCODING,
        # A machine that is gone without a word is noticed after 10 s (postgresql.org, "libpq-connect").
        "keepalives_idle": 5,
        "keepalives_interval": 1,
        "keepalives_count": 5,
        "tcp_user_timeout": 10_000,
    }
    found: dict[str, Any] = {name: value for name, value in options.items() if name not in url.query}
    return found | {"prepare_threshold": None}


def connect_arguments(url: URL) -> dict[str, Any]:
    """Return all arguments of psycopg for a connection of its own, to the hosts that engines connect to."""
    dialect = url.set(drivername=DRIVER).get_dialect()
    _, found = dialect().create_connect_args(url)
    return {**found, **connect_options(url)}


def _engine(url: URL, connect_args: dict[str, Any], **options: Any) -> Engine:
    engine = sa.create_engine(
        url.set(drivername=DRIVER),
        connect_args=connect_args,
        use_native_hstore=False,  # a query less for each connection
        poolclass=QueuePool,  # threads are few and bounded, as with SQLite
        pool_size=2,
        max_overflow=-1,
        **options,
    )
    event.listen(engine, "checkout", _refuse_ended)
    return engine


def _refuse_ended(connection: Any, _record: Any, _proxy: Any) -> None:
    """Drop a pooled connection that the server has ended: an idle server says nothing but that.

    A statement as a ping would cost a round trip, and wait for ever for a server that has fallen silent.
    """
    ended = select.poll()
    ended.register(connection.fileno(), select.POLLIN)
    if ended.poll(0):
        raise DisconnectionError("the server ended the connection")


class TimeLimits:
    """Time limits of transactions on one database. Thread-safe.

    The server ends a statement that takes as long as the whole transaction may. A thread cuts the connection of a
    transaction that lasts longer all the same: many statements, or a server that has fallen silent, for whose answer
    psycopg waits without end.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._deadlines: dict[socket.socket, float] = {}
        self._watcher: threading.Thread | None = None

    @contextmanager
    def limit(self, connection: Connection, limit_s: float, busy_timeout_s: float) -> Iterator[None]:
        """Limit the transaction, its statements, and their waits for locks."""
        raw: Any = connection.connection.driver_connection
        with socket.socket(fileno=socket.dup(raw.fileno())) as watched:
            self._watch(watched, time.monotonic() + limit_s + SILENCE_S)
            try:
                fetch_rows(connection, _SET_LIMITS, (_milliseconds(limit_s), _milliseconds(busy_timeout_s)))
                yield
            finally:
                with self._changed:  # it must not cut another file's descriptor
                    self._deadlines.pop(watched, None)

    def close(self) -> None:
        """End the thread. No transaction may be open."""
        with self._changed:
            watcher, self._watcher = self._watcher, None
            self._changed.notify()
        if watcher is not None:
            watcher.join()

    def _watch(self, watched: socket.socket, deadline: float) -> None:
        with self._changed:
            self._deadlines[watched] = deadline
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._run, name="silence", daemon=True)
                self._watcher.start()

    def _run(self) -> None:
        with self._changed:
            while self._watcher is threading.current_thread():
                now = time.monotonic()
                for watched in [each for each, deadline in self._deadlines.items() if deadline < now]:
                    del self._deadlines[watched]
                    with suppress(OSError):
                        watched.shutdown(socket.SHUT_RDWR)
                self._changed.wait(LOOK_EVERY_S)


def refuse_other_encoding(connection: Connection) -> None:
    """Refuse a database whose encoding cannot hold every character.

    Raises:
        ConfigurationError: its encoding is not UTF-8.
    """
    found = connection.exec_driver_sql("SHOW server_encoding").scalar()
    if found != ENCODING:
        raise ConfigurationError(
            f"The database has the encoding {found}: create it anew with ENCODING '{ENCODING}' TEMPLATE template0."
        )


def wait_for_migration_turn(
    connection: Connection, log: Callable[..., None] | None, idle_limit_s: float = IDLE_LIMIT_S
) -> None:
    """Wait, without limit, until no other host migrates the database. The turn ends with the transaction."""
    limits = {"statement_timeout": 0, "lock_timeout": 0, "idle_in_transaction_session_timeout": idle_limit_s}
    for name, seconds in limits.items():  # a role can have others
        connection.exec_driver_sql(f"SET LOCAL {name} = {round(seconds * 1000)}")
    if not connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(MIGRATION_LOCK))).scalar():
        if log is not None:
            log("waiting for another host that migrates the database")
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))


def is_refused_by_server(error: DBAPIError) -> bool:
    """Return True if the server refused a statement, which psycopg itself found no fault with: a table is missing, say.

    SQLite has one class for such errors and for a database that does not answer.
    """
    return getattr(error.orig, "sqlstate", None) is not None


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))

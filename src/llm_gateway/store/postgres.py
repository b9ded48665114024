"""Connections to Postgres, directly or through a pooler in transaction mode, such as PgBouncer.

Such a pooler gives each transaction another session, so nothing may be left in one: time limits are set for the
transaction, statements are not prepared, locks end with the transaction, and the start-up of a connection names no
option that the pooler would refuse (pgbouncer.org/config.html, "ignore_startup_parameters").
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Timer
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.pool import QueuePool

from llm_gateway.errors import ConfigurationError

WRITE_LIMIT_S = 30.0
"""Maximum seconds of a write transaction's statement."""

SILENCE_S = 1.0
"""Seconds beyond a statement's limit after which a server that says nothing counts as gone."""

ENCODING = "UTF8"

DRIVER_MISSING = (
    "LLM_GATEWAY_DATABASE_URL names Postgres, whose driver is missing: install the package psycopg, as the gateway's "
    "extra 'postgres' does."
)

_SET_LIMITS = """
SELECT set_config('statement_timeout', %s, true), set_config('lock_timeout', %s, true),
    set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), true)
"""
"""A record leaves the journal once its commit returns, so that commit must outlast a crash of the server."""


def open_postgres(url: URL, busy_timeout_s: float) -> tuple[Engine, Engine]:
    """Return engines to write and to read with; reads see one state of the database. Nothing is connected yet.

    Raises:
        ConfigurationError: the driver is missing.
    """
    options = {
        "connect_timeout": max(1, round(busy_timeout_s)),
        "application_name": "llm-gateway",
        "client_encoding": ENCODING,
        # A machine that is gone without a word is noticed after 10 s (postgresql.org, "libpq-connect").
        "keepalives_idle": 5,
        "keepalives_interval": 1,
        "keepalives_count": 5,
        "tcp_user_timeout": 10_000,
    }
    connect_args = {name: value for name, value in options.items() if name not in url.query}
    connect_args["prepare_threshold"] = None
    try:
        writer = _engine(url, connect_args)
        reader = _engine(url, connect_args, isolation_level="REPEATABLE READ")
    except ModuleNotFoundError:
        raise ConfigurationError(DRIVER_MISSING) from None
    return writer, reader.execution_options(postgresql_readonly=True)


def _engine(url: URL, connect_args: dict[str, Any], **options: Any) -> Engine:
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
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


@contextmanager
def time_limit(connection: Connection, limit_s: float, busy_timeout_s: float) -> Iterator[None]:
    """Limit the statements of the transaction, and their waits for locks.

    The server ends a statement that takes too long. If it does not even do that, the connection is cut.
    """
    raw: Any = connection.connection.driver_connection
    with socket.socket(fileno=socket.dup(raw.fileno())) as own:
        timer = Timer(limit_s + SILENCE_S, _cut, (own,))
        timer.daemon = True
        timer.start()
        try:
            limits = (str(max(1, round(limit_s * 1000))), str(max(1, round(busy_timeout_s * 1000))))
            connection.exec_driver_sql(_SET_LIMITS, limits)
            yield
        finally:
            timer.cancel()
            timer.join()  # it must not cut another file's descriptor


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


def is_refused_by_server(error: DBAPIError) -> bool:
    """Return True if the server refused a statement, which psycopg itself found no fault with: a table is missing, say.

    SQLite has one class for such errors and for a database that does not answer.
    """
    return getattr(error.orig, "sqlstate", None) is not None


def _cut(own: socket.socket) -> None:
    with suppress(OSError):
        own.shutdown(socket.SHUT_RDWR)

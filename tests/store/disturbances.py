"""Disturbances of a database: a lock that another connection holds, and rows that are refused or ignored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import Connection

from llm_gateway.store.database import Database
from llm_gateway.store.tables import metadata

FUNCTION = "CREATE FUNCTION disturb() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$"


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Lock the database for writers from another connection; readers go on."""
    other = Database.open(url)
    try:
        with other.write() as connection:
            if not other.is_sqlite:
                tables = ", ".join(["alembic_version", *metadata.tables])
                connection.exec_driver_sql(f"LOCK TABLE {tables} IN EXCLUSIVE MODE")
            yield
    finally:
        other.close()


@contextmanager
def refusing(database: Database, event: str, table: str, when: str = "true") -> Iterator[None]:
    """Refuse rows as a violated constraint does: `event` is as in BEFORE INSERT, `when` a condition."""
    with _trigger(database, event, table, when, "RAISE integrity_constraint_violation;", "ABORT, 'x'"):
        yield


@contextmanager
def ignoring(database: Database, event: str, table: str) -> Iterator[None]:
    """Ignore rows, as if another writer had just stored them."""
    with _trigger(database, event, table, "true", "RETURN NULL;", "IGNORE"):
        yield


@contextmanager
def _trigger(database: Database, event: str, table: str, when: str, body: str, raised: str) -> Iterator[None]:
    with database.write() as connection:
        start = f"CREATE TRIGGER disturb BEFORE {event} ON {table} FOR EACH ROW WHEN ({when})"
        if database.is_sqlite:
            connection.exec_driver_sql(f"{start} BEGIN SELECT RAISE({raised}); END")
        else:
            connection.exec_driver_sql(FUNCTION.format(body=body))
            connection.exec_driver_sql(f"{start} EXECUTE FUNCTION disturb()")
    yield
    with database.write() as connection:
        _drop(connection, "" if database.is_sqlite else f"ON {table}")


def _drop(connection: Connection, on: str) -> None:
    connection.exec_driver_sql(f"DROP TRIGGER disturb {on}")

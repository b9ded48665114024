"""One transaction for several stores, so that all of their changes are made together, or none.

with database.write() as connection:
    lock_configuration(connection)
    transaction = OneTransaction(connection)
    providers.within(transaction).create(draft)
    overrides.within(transaction).create(other)  # if it fails, the provider is not created either
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.store.budget_tables import budgets
from llm_gateway.store.tables import alert_targets, api_keys, overrides, providers, teams

CONFIGURATION = (teams, providers, overrides, api_keys, budgets, alert_targets)
"""Tables of what a configuration document holds. A change of a row changes its `updated_at_ms`."""

RECORDS_LOCK = 0x75736167
"""Key of the advisory lock of transactions that change stored records ("usag")."""


class Transactions(Protocol):
    """Contract of a database for stores: transactions to read and to write in."""

    def read(self, limit_s: float | None = None) -> AbstractContextManager[Connection]:
        """Open a transaction that only reads."""
        ...

    def write(self) -> AbstractContextManager[Connection]:
        """Open a transaction that is committed when the block ends, and rolled back if it raises."""
        ...


class OneTransaction:
    """`Transactions` that are all parts of one, which its opener commits or rolls back."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @contextmanager
    def read(self, limit_s: float | None = None) -> Iterator[Connection]:
        """Return the transaction's connection. Its writes so far are seen; `limit_s` has no effect."""
        del limit_s
        yield self._connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Return the transaction's connection."""
        yield self._connection


def configuration_version(connection: Connection) -> str:
    """Return a text that is another one after each change of what a configuration document holds."""
    digest = hashlib.blake2b(digest_size=16)
    for table in CONFIGURATION:
        query = sa.select(table.c.id, table.c.updated_at_ms).order_by(table.c.id)
        digest.update(table.name.encode())
        for row in connection.execute(query):
            digest.update(f"{row.id} {row.updated_at_ms},".encode())
    return digest.hexdigest()


def lock_configuration(connection: Connection) -> None:
    """Keep others from changing what a document holds until the transaction ends; they can read.

    On SQLite a write transaction keeps all other writers out already.
    """
    if connection.dialect.name == "postgresql":
        names = ", ".join(table.name for table in CONFIGURATION)
        connection.execute(sa.text(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE"))


def take_turn_to_change_records(connection: Connection) -> None:
    """Wait until no other transaction changes stored usage records, and keep others from that until this one ends.

    Erasure and repricing call it before anything else of a transaction: each locks records and totals of several
    customers and hours, and not in the same order. Shippers only add, in the order of the keys (`set_insert.py`), and
    retention deletes only what nobody holds; they do not wait here. SQLite has one writer.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(RECORDS_LOCK)))


def lock_for_count(connection: Connection, table: sa.Table) -> None:
    """Keep others from changing a table until the transaction ends, before rows are counted that must not get too many.

    Call it before anything else of the table is locked. On SQLite a write transaction keeps all other writers out.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"LOCK TABLE {table.name} IN SHARE ROW EXCLUSIVE MODE"))

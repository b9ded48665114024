"""INSERT many rows with one statement and one value: on Postgres they travel as one JSON array.

Binding values costs psycopg more than a microsecond each; a row of a usage record has 46. msgspec writes the whole row
in about that time, and Postgres takes it apart.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.store.bulk import BulkInsert, Pause, no_pause
from llm_gateway.store.database import Database
from llm_gateway.store.driver_sql import change_rows, fetch_rows

MOST_ROWS = 4096
"""Maximum number of rows of one statement; those of usage records take about 500 bytes each."""

_encoder = msgspec.json.Encoder()


class RowInsert(Protocol):
    """Inserts rows into one table; rows are sequences of values in the order of its columns."""

    def run(self, connection: Connection, rows: Sequence[Sequence[Any]], pause: Pause = no_pause) -> int:
        """Insert the rows; call `pause` before each statement. Returns the number of rows inserted or changed."""


def row_insert(
    database: Database, table: sa.Table, columns: Sequence[str], on_conflict: str, often_null: Collection[str] = ()
) -> RowInsert:
    """Return the fastest way to insert rows into a table; see `BulkInsert` for the arguments."""
    if database.is_sqlite:
        return BulkInsert(table, columns, on_conflict, "?", often_null)
    return SetInsert(table, columns, on_conflict, database.dialect)


class SetInsert:
    """`INSERT … SELECT … FROM jsonb_array_elements(…) <on conflict>` for one table.

    Rows begin with the table's key, and are inserted in its order: Postgres locks row by row, and writers that lock in
    the same order cannot deadlock. Values are texts, integers, booleans and None.
    """

    def __init__(self, table: sa.Table, columns: Sequence[str], on_conflict: str, dialect: sa.Dialect) -> None:
        values = columns_of_json(table, columns, dialect)
        into, source = f"{table.name} ({', '.join(columns)})", "FROM jsonb_array_elements(%s::jsonb) AS e"
        self._text = " ".join(["INSERT INTO", into, "SELECT", ", ".join(values), source, on_conflict])

    def run(self, connection: Connection, rows: Sequence[Sequence[Any]], pause: Pause = no_pause) -> int:
        """Insert the rows; call `pause` before each statement. Returns the number of rows inserted or changed."""
        comparable: Sequence[Any] = rows
        ordered, done = sorted(comparable), 0
        for start in range(0, len(ordered), MOST_ROWS):
            pause()
            done += change_rows(connection, self._text, (as_json(ordered[start : start + MOST_ROWS]),))
        return done


def columns_of_json(table: sa.Table, columns: Sequence[str], dialect: sa.Dialect) -> list[str]:
    """Return the SQL for the values of a row that is the JSON array `e`, in the types of the table's columns."""
    return [f"(e->>{at})::{table.c[name].type.compile(dialect)}" for at, name in enumerate(columns)]


def stored_ids(connection: Connection, table: str, ids: Sequence[str]) -> list[str]:
    """Return those of the ids that a table of Postgres holds."""
    query = " ".join(["SELECT id FROM", table, "WHERE id IN (SELECT jsonb_array_elements_text(%s::jsonb))"])
    return [found for (found,) in fetch_rows(connection, query, (as_json(ids),))]


def as_json(values: Sequence[Any]) -> str:
    """Return the JSON array of the values.

    Raises:
        UnicodeEncodeError: a text has half of a surrogate pair.
    """
    return _encoder.encode(values).decode()

"""Rows are inserted alike on both databases; on Postgres by one statement with one value."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from llm_gateway.store.bulk import adding
from llm_gateway.store.database import Database
from llm_gateway.store.rollups import DAY_MS
from llm_gateway.store.set_insert import MOST_ROWS, as_json, row_insert
from llm_gateway.store.usage import UsageStore
from tests.store.histories import NOW_MS, record, stored_ids

COLUMNS = ("id", "t", "n", "b", "needed")
IGNORING = "ON CONFLICT (id) DO NOTHING"


@pytest.fixture
def table(database: Database) -> sa.Table:
    table = sa.Table(
        "things",
        sa.MetaData(),
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("t", sa.Text),
        sa.Column("n", sa.BigInteger),
        sa.Column("b", sa.Boolean),
        sa.Column("needed", sa.Text, nullable=False),
    )
    with database.write() as connection:
        table.create(connection)
    return table


def all_rows(database: Database, table: sa.Table) -> list[tuple[Any, ...]]:
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(sa.select(table).order_by(table.c.id))]


ROWS = [
    (1, None, None, None, ""),
    (2, "", 0, False, "0"),
    (3, "null", -1, True, "-0.5"),
    (4, '"\\u0041\n\t{[ü😀%s ?', 2**63 - 1, True, "x'; DROP TABLE things"),
    (5, "\x01", -(2**63), None, "\x7f"),
]


def test_values_are_stored_as_they_are(database: Database, table: sa.Table) -> None:
    insert = row_insert(database, table, COLUMNS, IGNORING, ("t", "n"))
    with database.write() as connection:
        assert insert.run(connection, []) == 0
        assert insert.run(connection, ROWS) == len(ROWS)
        assert insert.run(connection, [*ROWS, (6, None, 1, True, "")]) == 1
    assert all_rows(database, table) == [*ROWS, (6, None, 1, True, "")]


def test_a_conflicting_row_is_added_to_the_stored_one(database: Database, table: sa.Table) -> None:
    insert = row_insert(database, table, COLUMNS, adding(table, ["n"]))
    with database.write() as connection:
        insert.run(connection, [(1, "a", 10, True, ""), (2, "b", 20, True, "")])
        assert insert.run(connection, [(2, "c", 2, False, "x"), (3, "d", 3, True, "")]) == 2
    assert all_rows(database, table) == [(1, "a", 10, True, ""), (2, "b", 22, True, ""), (3, "d", 3, True, "")]


def test_more_rows_than_a_statement_takes_are_inserted_with_pauses(database: Database, table: sa.Table) -> None:
    pauses: list[int] = []
    rows = [(number, None, None, None, "") for number in range(MOST_ROWS + 1)]
    insert = row_insert(database, table, COLUMNS, IGNORING)
    with database.write() as connection:
        assert insert.run(connection, rows, lambda: pauses.append(1)) == len(rows)
    assert len(pauses) >= 2
    assert [row[0] for row in all_rows(database, table)] == [*range(len(rows))]


@pytest.mark.parametrize("bad", [(1, "a", 0, True, None), (1, "a", 2**63, True, ""), (1, "\ud800", 0, True, "")])
def test_a_value_that_does_not_fit_stores_nothing(database: Database, table: sa.Table, bad: tuple[Any, ...]) -> None:
    insert = row_insert(database, table, COLUMNS, IGNORING)
    expected = (IntegrityError, DBAPIError, OverflowError, UnicodeEncodeError)
    with pytest.raises(expected), database.write() as connection:
        insert.run(connection, [(7, "b", 0, True, ""), bad])
    assert all_rows(database, table) == []


def test_a_batch_is_one_statement_of_one_or_two_values_for_each_table(postgres_database: Database) -> None:
    """Binding each value takes psycopg some 70 µs a record."""
    seen: list[tuple[str, int]] = []
    with postgres_database.write() as connection:  # the pool hands out this connection again
        raw: Any = connection.connection.driver_connection
        factory = raw.cursor_factory

    class Watched(factory):  # type: ignore[misc,valid-type]  # psycopg's own class, which may not be installed
        """A cursor that notes its statements and their numbers of values."""

        def execute(self, query: str, values: Any = None, **options: Any) -> Any:
            seen.append((query, len(values or ())))
            return super().execute(query, values, **options)

    raw.cursor_factory = Watched
    UsageStore(postgres_database).write([record(NOW_MS - number, user_id=f"u{number}") for number in range(200)])
    raw.cursor_factory = factory
    inserts = [(text.split()[2], values) for text, values in seen if text.startswith("INSERT")]
    tables = ["usage_cube", "usage_customers", "usage_names", "usage_records"]
    assert sorted(inserts) == [*((name, 1) for name in tables), ("usage_rollups", 2)]
    assert len(stored_ids(postgres_database)) == 200
    assert UsageStore(postgres_database).summary(1, NOW_MS + DAY_MS // 24).requests == 200


def test_an_array_is_compact_json() -> None:
    assert as_json([[1, None, True, 'ü"']]) == '[[1,null,true,"ü\\""]]'

"""Many rows in few statements."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from llm_gateway.store.bulk import MOST_PARAMETERS, BulkInsert, adding
from llm_gateway.store.database import Database

COLUMNS = ("id", "n")


@pytest.fixture
def table(database: Database) -> sa.Table:
    table = sa.Table("things", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer))
    with database.write() as connection:
        table.create(connection)
    return table


def all_rows(database: Database, table: sa.Table) -> list[tuple[Any, ...]]:
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(sa.select(table).order_by(table.c.id))]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1000, 20_000])
def test_every_row_is_inserted_once(database: Database, table: sa.Table, count: int) -> None:
    rows = [(number, number * 2) for number in range(count)]
    bulk = BulkInsert(table, COLUMNS, "ON CONFLICT (id) DO NOTHING", "?")
    with database.write() as connection:
        assert bulk.run(connection, rows) == count
        assert bulk.run(connection, [*rows, (count, 0)]) == 1
    assert all_rows(database, table) == [*rows, (count, 0)]


def test_adding_adds(database: Database, table: sa.Table) -> None:
    bulk = BulkInsert(table, COLUMNS, adding(table, ["n"]), "?")
    with database.write() as connection:
        assert bulk.run(connection, [(1, 10), (2, 20), (1, 5)]) == 3
        bulk.run(connection, [(2, 2)])
    assert all_rows(database, table) == [(1, 15), (2, 22)]


def test_statements_are_few_and_within_the_limit_of_parameters(database: Database, table: sa.Table) -> None:
    statements: list[tuple[str, int]] = []
    bulk = BulkInsert(table, COLUMNS, "ON CONFLICT (id) DO NOTHING", "?")
    with database.write() as connection:
        sa.event.listen(
            connection,
            "before_cursor_execute",
            lambda _connection, _cursor, text, parameters, *_: statements.append((text, len(parameters))),
        )
        bulk.run(connection, [(number, 0) for number in range(8192 * 2 + 5)])
    assert [size for _, size in statements] == [16384, 16384, 8, 2]
    assert max(size for _, size in statements) <= MOST_PARAMETERS
    assert [text.count("(?, ?)") for text, _ in statements] == [8192, 8192, 4, 1]

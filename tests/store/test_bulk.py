"""Insert many rows with few statements."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.store.bulk import MOST_PARAMETERS, BulkInsert, adding, with_pauses
from llm_gateway.store.database import Database
from llm_gateway.store.usage import UsageStore
from tests.journal.samples import attempt, record

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


def test_a_conflicting_row_is_added_to_the_stored_one(database: Database, table: sa.Table) -> None:
    bulk = BulkInsert(table, COLUMNS, adding(table, ["n"]), "?")
    with database.write() as connection:
        assert bulk.run(connection, [(1, 10), (2, 20), (1, 5)]) == 3
        bulk.run(connection, [(2, 2)])
    assert all_rows(database, table) == [(1, 15), (2, 22)]


def statements_of(connection: Connection) -> list[tuple[str, int]]:
    """Return a list that collects (text, number of values) of every statement run from now on."""
    statements: list[tuple[str, int]] = []
    sa.event.listen(
        connection,
        "before_cursor_execute",
        lambda _connection, _cursor, text, parameters, *_: statements.append((text, len(parameters))),
    )
    return statements


def test_statements_are_within_the_limit_of_parameters_and_of_few_sizes(database: Database, table: sa.Table) -> None:
    bulk = BulkInsert(table, COLUMNS, "ON CONFLICT (id) DO NOTHING", "?")
    with database.write() as connection:
        statements = statements_of(connection)
        bulk.run(connection, [(number, 0) for number in range(512 * 2 + 5)])
    assert [size for _, size in statements] == [1024, 1024, 8, 2]
    assert max(size for _, size in statements) <= MOST_PARAMETERS
    assert [text.count("(?, ?)") for text, _ in statements] == [512, 512, 4, 1]


def test_there_is_a_pause_before_each_statement(database: Database, table: sa.Table) -> None:
    bulk, pauses = BulkInsert(table, COLUMNS, "ON CONFLICT (id) DO NOTHING", "?"), list[int]()
    with database.write() as connection:
        statements = statements_of(connection)
        bulk.run(connection, [(number, 0) for number in range(2000)], lambda: pauses.append(len(statements)))
    assert pauses == [*range(len(statements))]


@pytest.mark.parametrize("count", [0, 1, 16, 17, 100])
def test_items_with_pauses_are_complete_with_a_pause_before_every_16th(count: int) -> None:
    seen: list[str] = []
    seen.extend(str(item) for item in with_pauses(range(count), lambda: seen.append("pause")))
    assert [each for each in seen if each != "pause"] == [str(number) for number in range(count)]
    assert [place for place, each in enumerate(seen) if each == "pause"] == [*range(0, len(seen), 17)]


def test_records_are_stored_in_statements_of_64_rows_at_most_with_pauses(database: Database) -> None:
    """The event loop waits for the GIL while a statement's values are bound, and while rows are made."""
    store = UsageStore(database)
    records = [record(number, attempt("a"), user_id=f"customer {number}") for number in range(2000)]
    statements: list[tuple[str, int]] = []
    pauses: list[int] = []
    with database.write() as connection:
        engine = connection.engine
    sa.event.listen(
        engine,
        "before_cursor_execute",
        lambda _connection, _cursor, text, parameters, *_: statements.append((text, len(parameters))),
    )
    store.write(records, lambda: pauses.append(len(statements)))
    inserts = [(text.count("(?"), size) for text, size in statements if text.startswith("INSERT")]
    assert sum(rows for rows, _ in inserts) >= 3 * len(records)
    assert max(rows for rows, _ in inserts) <= 64
    assert max(size for _, size in inserts) <= MOST_PARAMETERS
    assert len(pauses) >= 3 * len(records) // 16
    assert set(range(pauses[0], pauses[-1])) <= set(pauses)  # no two statements without a pause between them

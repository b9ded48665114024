"""Insert many rows with few statements."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from llm_gateway.store.bulk import MOST_PARAMETERS, BulkInsert, adding, with_pauses
from llm_gateway.store.database import Database
from llm_gateway.store.usage import UsageStore
from tests.journal.samples import attempt, record

COLUMNS = ("id", "n")


@pytest.fixture
def database(sqlite_database: Database) -> Database:
    return sqlite_database


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


def statements_of(connection: Connection) -> list[str]:
    """Return a list that collects every statement but COMMIT that SQLite runs from now on, with its values."""
    statements: list[str] = []
    raw: Any = connection.connection.driver_connection
    raw.set_trace_callback(lambda text: None if text == "COMMIT" else statements.append(text))
    return statements


def inserts_of(statements: list[str]) -> list[tuple[int, int]]:
    """Return (number of rows, number of values) of each INSERT."""
    found = []
    for text in statements:
        if text.startswith("INSERT"):
            columns = text[text.index("(") : text.index(")")].count(",") + 1
            rows = text.count("), (") + 1
            found.append((rows, rows * columns))
    return found


def test_statements_are_within_the_limit_of_parameters_and_of_few_sizes(database: Database, table: sa.Table) -> None:
    bulk = BulkInsert(table, COLUMNS, "ON CONFLICT (id) DO NOTHING", "?")
    with database.write() as connection:
        statements = statements_of(connection)
        bulk.run(connection, [(number, 0) for number in range(512 * 2 + 5)])
    assert len(statements) == 4
    assert inserts_of(statements) == [(512, 1024), (512, 1024), (4, 8), (1, 2)]
    assert max(size for _, size in inserts_of(statements)) <= MOST_PARAMETERS


def test_there_is_a_pause_before_each_statement(database: Database, table: sa.Table) -> None:
    bulk, pauses = BulkInsert(table, COLUMNS, "ON CONFLICT (id) DO NOTHING", "?"), list[int]()
    with database.write() as connection:
        statements = statements_of(connection)
        bulk.run(connection, [(number, 0) for number in range(2000)], lambda: pauses.append(len(statements)))
    assert pauses == [*range(len(statements))]


@pytest.mark.parametrize("often_null", [(), ("t",), ("t", "n")])
def test_null_is_stored_as_null_and_refused_where_a_value_is_required(
    database: Database, often_null: tuple[str, ...]
) -> None:
    table = sa.Table(
        "mixed",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("t", sa.Text),
        sa.Column("n", sa.BigInteger),
        sa.Column("needed", sa.Text, nullable=False),
    )
    bulk = BulkInsert(table, ("id", "t", "n", "needed"), "ON CONFLICT (id) DO NOTHING", "?", often_null)
    rows = [(1, None, None, ""), (2, "", 0, "0"), (3, "-0.5", -1, "null"), (4, None, 2**62, "x"), (5, "0", None, "")]
    with database.write() as connection:
        table.create(connection)
        bulk.run(connection, rows)
    assert all_rows(database, table) == rows
    with pytest.raises(IntegrityError), database.write() as connection:
        bulk.run(connection, [(6, "t", 0, None)])
    assert all_rows(database, table) == rows


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
    pauses: list[int] = []
    with database.write() as connection:  # the pool hands out this connection again
        statements = statements_of(connection)
    statements.clear()
    store.write(records, lambda: pauses.append(len(statements)))
    inserts = inserts_of(statements)
    assert sum(rows for rows, _ in inserts) >= 3 * len(records)
    assert max(rows for rows, size in inserts if size > rows) <= 64  # names are one value each
    assert max(size for _, size in inserts) <= MOST_PARAMETERS
    assert len(pauses) >= 3 * len(records) // 16
    assert set(range(pauses[0], pauses[-1])) <= set(pauses)  # no two statements without a pause between them

"""Sums of some names read the rows of these names alone, whatever other customers there are."""

from __future__ import annotations

from typing import Any

from llm_gateway.store.database import Database
from llm_gateway.store.named_sums import NamedSums
from llm_gateway.store.rollup_table import RollupTable, number_of
from llm_gateway.store.rollups import CUSTOMER, DAY_MS, Totals
from llm_gateway.store.usage import UsageStore
from tests.store.histories import HOUR_MS, NOW_MS, record

MIDNIGHT_MS = NOW_MS // DAY_MS * DAY_MS


def test_each_part_has_the_totals_of_the_names_that_are_not_0(database: Database) -> None:
    store, sums = UsageStore(database), NamedSums(database, RollupTable(database))
    store.write([record(MIDNIGHT_MS - day * DAY_MS, user_id=f"u{day % 3}", cost_nanos=10**day) for day in range(9)])
    while store.build_block(MIDNIGHT_MS - DAY_MS):
        pass
    days = [(MIDNIGHT_MS - day * DAY_MS, MIDNIGHT_MS - (day - 1) * DAY_MS) for day in range(4)]
    whole = (MIDNIGHT_MS - 8 * DAY_MS - HOUR_MS, MIDNIGHT_MS + 2 * HOUR_MS)
    with database.read() as connection:
        numbers = [number_of(connection, CUSTOMER, name) for name in ("u0", "u1")]
        first, second = (number for number in numbers if number is not None)
        found = sums.totals(connection, CUSTOMER, (first, second), [*days, whole, (whole[1], whole[0])])
        assert sums.totals(connection, CUSTOMER, (), [whole]) == [{}]
    assert found[:4] == [
        {first: Totals(requests=1, cost_nanos=1)},
        {second: Totals(requests=1, cost_nanos=10)},
        {},
        {first: Totals(requests=1, cost_nanos=1000)},
    ]
    assert found[4:] == [
        {first: Totals(requests=3, cost_nanos=1_001_001), second: Totals(requests=3, cost_nanos=10_010_010)},
        {},
    ]


def test_rows_of_other_customers_are_not_read(sqlite_database: Database) -> None:
    statements: list[str] = []
    with sqlite_database.read() as connection:
        raw: Any = connection.connection.driver_connection
        raw.set_trace_callback(statements.append)
        NamedSums(sqlite_database, RollupTable(sqlite_database)).totals(
            connection, CUSTOMER, [1, 2], [(MIDNIGHT_MS - 9 * DAY_MS, MIDNIGHT_MS)]
        )
        raw.set_trace_callback(None)
        plan = " ".join(row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {statements[-1]}"))
    assert "SEARCH found USING PRIMARY KEY (dimension=? AND hours=? AND bucket=? AND name=?)" in plan

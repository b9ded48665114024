"""Sum the records of a batch by customer within Postgres, and add the sums to the rows of their hours and days.

Nearly every record of a batch can be of another customer. In Python each would take a sum, two rows and a number that
is fetched; Postgres has the records already, which the same transaction has just stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.store.driver_sql import change_rows
from llm_gateway.store.record_counters import RECORD_COUNTERS
from llm_gateway.store.rollup_rows import NO_MINUTES, NUMBERS
from llm_gateway.store.rollups import COUNTERS, CUSTOMER, DAY, HOUR, HOUR_MS, MINUTE_MS
from llm_gateway.store.set_insert import as_json, columns_of_json
from llm_gateway.store.tables import usage_rollups

_NUMBER_NAMES = """INSERT INTO usage_customers (name)
SELECT e.name FROM jsonb_array_elements_text(%s::jsonb) AS e (name)
WHERE NOT EXISTS (SELECT FROM usage_customers AS known WHERE known.name = e.name COLLATE "C")
ORDER BY e.name COLLATE "C"
ON CONFLICT (name) DO NOTHING
"""
"""Give the customers that have none a number. In order of their names, so that transactions cannot deadlock."""

_ADD_ROWS = """INSERT INTO usage_rollups ({columns})
WITH called AS (
    SELECT usage_records.at_ms / {hour_ms} AS hour, usage_customers.id AS name, {sums},
        bit_or(1::bigint << mod(usage_records.at_ms / {minute_ms}, 60)::integer) AS minutes
    FROM usage_records JOIN usage_customers ON usage_customers.name = usage_records.user_id COLLATE "C"
    WHERE usage_records.id IN (SELECT jsonb_array_elements_text(%s::jsonb))
    GROUP BY 1, 2
)
SELECT {given} FROM jsonb_array_elements(%s::jsonb) AS e
UNION ALL
SELECT {customer}, {hours}, hour, name, {counters}, minutes FROM called
UNION ALL
SELECT {customer}, {day_hours}, hour / {day_hours}, name, {day_sums}, {no_minutes} FROM called GROUP BY 3, 4
ORDER BY 1, 2, 3, 4
{adding}
"""


class CustomerSums:
    """The statements that add a stored batch to `usage_rollups` on Postgres. Run them in its transaction."""

    def __init__(self, columns: Sequence[str], adding: str, dialect: sa.Dialect) -> None:
        """Set the columns of the other rows of `add`, and what to do with a row that is there already."""
        literal = {"literal_binds": True}
        summed = [str(each.compile(dialect=dialect, compile_kwargs=literal)) for each in RECORD_COUNTERS]
        self._add_rows = _ADD_ROWS.format(
            columns=", ".join(columns),
            given=", ".join(columns_of_json(usage_rollups, columns, dialect)),
            sums=", ".join(f"{sql} AS {name}" for sql, name in zip(summed, COUNTERS, strict=True)),
            day_sums=", ".join(f"sum({name})::bigint" for name in COUNTERS),
            counters=", ".join(COUNTERS),
            hour_ms=HOUR_MS,
            minute_ms=MINUTE_MS,
            customer=NUMBERS[CUSTOMER],
            hours=HOUR.hours,
            day_hours=DAY.hours,
            no_minutes=NO_MINUTES,
            adding=adding,
        )

    def number_names(self, connection: Connection, customers: Iterable[str]) -> None:
        """Give those of the customers a number that have none."""
        change_rows(connection, _NUMBER_NAMES, (as_json(sorted(customers)),))

    def add(self, connection: Connection, records: Sequence[UsageRecord], others: Sequence[Sequence[int]]) -> None:
        """Add the customers' sums of stored records, and rows of other dimensions, in the order of the table's key.

        All customers must have numbers.
        """
        ids = as_json([record.id for record in records])
        change_rows(connection, self._add_rows, (ids, as_json(others)))

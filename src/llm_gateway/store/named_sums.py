"""Sum the rollups of some names over several periods, by one statement that finds each row by its key.

A report of all customers reads whole buckets (`rollup_rows.py`), in which a page of a hundred has a few rows each.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache

from sqlalchemy.engine import Connection

from llm_gateway.store.cube_periods import Part
from llm_gateway.store.cube_reader import POSTGRES_AMONG, POSTGRES_BUCKETS, SQLITE_AMONG, SQLITE_BUCKETS
from llm_gateway.store.database import Database
from llm_gateway.store.driver_sql import fetch_rows
from llm_gateway.store.rollup_rows import NUMBERS, bucket_numbers
from llm_gateway.store.rollup_table import RollupTable
from llm_gateway.store.rollups import COUNTERS, Totals
from llm_gateway.store.set_insert import as_json
from llm_gateway.store.tables import usage_rollups


class NamedSums:
    """Totals of names that are given by their numbers, in the caller's transaction."""

    def __init__(self, database: Database, rollups: RollupTable) -> None:
        self._text = _statement(is_sqlite=database.is_sqlite)
        self._rollups = rollups

    def totals(
        self, connection: Connection, dimension: str, numbers: Collection[int], parts: Sequence[Part]
    ) -> list[dict[int, Totals]]:
        """Return the totals of each part by the names' numbers, without those that are 0. Parts are of full hours."""
        wanted = [
            (each.grain.hours, bucket, part, each.sign)
            for part, stretches in enumerate(self._rollups.stretches_of(connection, dimension, parts))
            for each in stretches
            for bucket in bucket_numbers(each)
        ]
        values = as_json(wanted), NUMBERS[dimension], as_json([*numbers])
        found: list[dict[int, Totals]] = [{} for _ in parts]
        for part, number, *sums in fetch_rows(connection, self._text, values):
            if any(sums):
                found[part][number] = Totals(*sums)
        return found


@cache
def _statement(*, is_sqlite: bool) -> str:
    """Return the query for rows of (part, number of the name, all counters); `cube_reader.py` says why it is so.

    Its placeholders are for the buckets as JSON, the number of the dimension, and the numbers of the names as JSON.
    """
    mark, among = ("?", SQLITE_AMONG) if is_sqlite else ("%s", POSTGRES_AMONG)
    conditions = [
        f"found.dimension = {mark}",
        "found.hours = wanted.hours",
        "found.bucket = wanted.bucket",
        f"found.name {among}",
    ]
    rows = [usage_rollups.name, "AS found WHERE", " AND ".join(conditions)]
    return " ".join(
        [
            "WITH wanted (hours, bucket, part, sign) AS MATERIALIZED (",
            SQLITE_BUCKETS if is_sqlite else POSTGRES_BUCKETS,
            ") SELECT wanted.part, found.name,",
            ", ".join(f"CAST(coalesce(sum(wanted.sign * found.{name}), 0) AS bigint)" for name in COUNTERS),
            "FROM wanted CROSS JOIN",
            *(rows if is_sqlite else ["LATERAL (SELECT * FROM", *rows, "OFFSET 0) AS found"]),
            "GROUP BY wanted.part, found.name",
        ]
    )

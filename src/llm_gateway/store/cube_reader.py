"""Read the cube for reports: usage totals by some dimensions, over each part of a period.

One statement reads the buckets of all parts (`cube_periods.py`) and adds them up: of past days those of a margin that
has the dimensions (`cube_margins.py`), of others those of the whole cube. Its text is the same for all periods, so that
it is built once for each kind of report.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.errors import Invalid
from llm_gateway.store.cube import LONG, WHOLE, Margin, margin_of
from llm_gateway.store.cube_periods import Part, buckets_of
from llm_gateway.store.cube_table import LONGEST_NAME, built_until
from llm_gateway.store.database import Database
from llm_gateway.store.driver_sql import fetch_rows
from llm_gateway.store.numbered_texts import NumberedTexts
from llm_gateway.store.record_sums import Group
from llm_gateway.store.rollups import COUNTERS, DAY, Totals
from llm_gateway.store.set_insert import as_json
from llm_gateway.store.tables import usage_cube, usage_names

SQLITE_BUCKETS = (
    "SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), "
    "json_extract(value, '$[3]') FROM json_each(?)"
)
POSTGRES_BUCKETS = (
    "SELECT (e->>0)::smallint, (e->>1)::integer, (e->>2)::integer, (e->>3)::smallint "
    "FROM jsonb_array_elements(%s::jsonb) AS e"
)
"""The buckets to read, from a JSON array of arrays."""

SQLITE_AMONG = "IN (SELECT value FROM json_each(?))"
POSTGRES_AMONG = "= ANY(ARRAY(SELECT value::integer FROM jsonb_array_elements_text(%s::jsonb)))"
"""The condition for numbers in a JSON array."""

NO_NAME = -1
"""A number that no name has."""

Numbers: TypeAlias = tuple[int, ...]
"""The numbers of a group's names, one for each dimension."""


class CubeQuery(NamedTuple):
    """Dimensions to group by, names of others to filter by, and counters to sum; the other counters are 0.

    `among` are the groups that may be found, by the numbers of the first dimension's names; None for all.
    """

    dimensions: tuple[str, ...]
    filters: tuple[tuple[str, str], ...] = ()
    counters: tuple[str, ...] = COUNTERS
    among: tuple[int, ...] | None = None

    @property
    def margin(self) -> Margin:
        """The margin that is read of past days, or the whole cube."""
        return margin_of({*self.dimensions, *(name for name, _ in self.filters)})


class CubeReader:
    """Queries of the cube, in the caller's transaction. `most_values` is the maximum number of totals of one."""

    def __init__(self, database: Database, most_values: int) -> None:
        self._is_sqlite = database.is_sqlite
        self._most_values = most_values
        self._names = NumberedTexts(database, usage_names)

    def totals(self, connection: Connection, wanted: CubeQuery, parts: Sequence[Part]) -> list[dict[Numbers, Totals]]:
        """Return the totals by group of each part, without groups of which all are 0. Parts are of full hours.

        Raises:
            Invalid: there are more than `most_values`.
        """
        shape, values = self._shape(connection, wanted, parts)
        text = _statement(shape, is_sqlite=self._is_sqlite)
        rows = fetch_rows(connection, text, (*values, self._most_values + 1))
        check_number(len(rows), self._most_values)
        found: list[dict[Numbers, Totals]] = [{} for _ in parts]
        width = 1 + len(wanted.dimensions)
        for row in rows:
            if any(row[width:]):
                found[row[0]][row[1:width]] = Totals(*row[width:])
        return found

    def named(self, connection: Connection, found: Sequence[dict[Numbers, Totals]]) -> list[dict[Group, Totals]]:
        """Return the same totals by the names of the groups."""
        names = self._names.texts(connection, {number for part in found for group in part for number in group})
        return [{tuple(map(names.__getitem__, group)): totals for group, totals in part.items()} for part in found]

    def _shape(
        self, connection: Connection, wanted: CubeQuery, parts: Sequence[Part]
    ) -> tuple[_Shape, list[str | int]]:
        """Return what the statement depends on, and the values of its placeholders but the last."""
        filtered = tuple(name for name, _ in wanted.filters)
        margin = wanted.margin
        end_of_margins = built_until(connection) if margin is not WHOLE else 0
        buckets = buckets_of(parts, LONG if margin is WHOLE else DAY)
        shape = _Shape(
            dimensions=wanted.dimensions,
            filtered=filtered,
            counters=wanted.counters,
            has_among=wanted.among is not None,
            has_parts=len(parts) > 1,
            has_signs=any(each.sign < 0 for each in buckets),
        )
        places = [
            ((margin if each.day < end_of_margins else WHOLE).hours(each.grain), each.number, each.part, each.sign)
            for each in buckets
        ]
        values: list[str | int] = [as_json(places)]
        values += (self._number(connection, name) for _, name in wanted.filters)
        if wanted.among is not None:
            values.append(as_json(wanted.among))
        return shape, values

    def _number(self, connection: Connection, name: str) -> int:
        query = sa.select(usage_names.c.id).where(usage_names.c.name == name[:LONGEST_NAME])
        return connection.execute(query).scalar() or NO_NAME


def check_number(number: int, most_values: int) -> None:
    """Check the number of the totals of a report.

    Raises:
        Invalid: there are more than `most_values`.
    """
    if number > most_values:
        raise Invalid(
            f"The report has more than {most_values:,} values: choose a shorter period or a longer bucket, or add a "
            "filter.",
            loc=("query", "group_by"),
        )


class _Shape(NamedTuple):
    """Properties of a query that the text of its statement depends on."""

    dimensions: tuple[str, ...]
    filtered: tuple[str, ...]
    counters: tuple[str, ...]
    has_among: bool
    has_parts: bool
    has_signs: bool


@cache
def _statement(shape: _Shape, *, is_sqlite: bool) -> str:
    """Return the text of a query for rows of (part, number of each dimension's name, all counters).

    Its placeholders are for the buckets as JSON, the numbers of the filters, `among` as JSON, and the number of rows.
    PostgreSQL's sums of integers are decimals, hence the casts.
    """
    groups = [f"cube.{name}" for name in shape.dimensions]
    sign = "wanted.sign * " if shape.has_signs else ""
    sums = [
        f"CAST(coalesce(sum({sign}cube.{name}), 0) AS bigint)" if name in shape.counters else "0" for name in COUNTERS
    ]
    parts = ["wanted.part"] if shape.has_parts else []
    buckets = SQLITE_BUCKETS if is_sqlite else POSTGRES_BUCKETS
    return " ".join(
        [
            f"WITH wanted (hours, bucket, part, sign) AS MATERIALIZED ({buckets})",
            "SELECT",
            ", ".join([*(parts or ["0"]), *groups, *sums]),
            "FROM wanted CROSS JOIN",
            *_rows(shape, is_sqlite=is_sqlite),
            f"GROUP BY {', '.join([*parts, *groups])}" if parts or groups else "",
            f"LIMIT {'?' if is_sqlite else '%s'}",
        ]
    )


def _rows(shape: _Shape, *, is_sqlite: bool) -> list[str]:
    """Return the rows `cube` of a bucket, which both databases look up by the key of the table.

    SQLite does so for each bucket of a CROSS JOIN. Postgres guesses that hardly any row meets the conditions, and would
    look through the whole table, if it were not for the OFFSET.
    """
    mark, among = ("?", SQLITE_AMONG) if is_sqlite else ("%s", POSTGRES_AMONG)
    conditions = ["cube.hours = wanted.hours", "cube.bucket = wanted.bucket"]
    conditions += (f"cube.{name} = {mark}" for name in shape.filtered)
    if shape.has_among:
        conditions.append(f"cube.{shape.dimensions[0]} {among}")
    found = [usage_cube.name, "AS cube WHERE", " AND ".join(conditions)]
    return found if is_sqlite else ["LATERAL (SELECT * FROM", *found, "OFFSET 0) AS cube"]

"""The rows of usage_rollups that the stretches of a report's period consist of, as a query (`rollup_table.py`)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import BigInteger

from llm_gateway.store.rollups import COUNTERS, CUSTOMER, DAY, PROVIDER, SERVICE, TO_DATE, Stretch
from llm_gateway.store.tables import usage_rollups

NUMBERS = {SERVICE: 1, CUSTOMER: 2, PROVIDER: 3}
"""Values of the column `dimension`."""

NEGATED = {name: sa.type_coerce(-usage_rollups.c[name], BigInteger).label(name) for name in COUNTERS}
"""SQL expression for the negated value of each counter, to subtract hours from a day."""


def rows_of(
    dimension: str,
    stretches: Sequence[Stretch],
    counters: tuple[str, ...],
    numbers: Collection[int] | None = None,
    *,
    is_sqlite: bool,
) -> sa.Select[Any] | sa.CompoundSelect[Any]:
    """Return a query for rows of (number of a name, counters) of all stretches, of some names or of all."""
    if is_sqlite:  # it reads each stretch in the order of the table
        return sa.union_all(*(_select(dimension, [each], counters, numbers) for each in stretches))
    return _select(dimension, stretches, counters, numbers)


def between(hours: int, first: int, end: int) -> sa.ColumnElement[bool]:
    """Return the condition for the buckets of a length from `first` to before `end`."""
    rollups = usage_rollups.c
    return sa.and_(rollups.hours == hours, rollups.bucket >= first, rollups.bucket < end)


def _select(
    dimension: str, stretches: Sequence[Stretch], counters: tuple[str, ...], numbers: Collection[int] | None = None
) -> sa.Select[Any]:
    """Return a query for the rows of stretches that have no bucket in common.

    Postgres reads all of them by one bitmap: page after page, and several pages at a time from a disk.
    """
    rollups = usage_rollups.c
    figures: list[sa.ColumnElement[int]] = [rollups[name] for name in counters]
    if all(each.sign < 0 for each in stretches):
        figures = [NEGATED[name] for name in counters]
    elif any(each.sign < 0 for each in stretches):
        is_negative = _is_negative(stretches)
        figures = [sa.case((is_negative, NEGATED[name]), else_=rollups[name]).label(name) for name in counters]
    # The dimension is in each part, since the index begins with it.
    parts = (sa.and_(rollups.dimension == NUMBERS[dimension], _buckets_of(each)) for each in stretches)
    query = sa.select(rollups.name, *figures).where(sa.or_(*parts))
    return query if numbers is None else query.where(rollups.name.in_(numbers))


def _is_negative(stretches: Sequence[Stretch]) -> sa.ColumnElement[bool]:
    """Return the condition for the rows to subtract, in one comparison for each grain if that will do."""
    added = {each.grain for each in stretches if each.sign > 0}
    return sa.or_(
        *(
            _buckets_of(each) if each.grain in added else usage_rollups.c.hours == each.grain.hours
            for each in stretches
            if each.sign < 0
        )
    )


def _buckets_of(stretch: Stretch) -> sa.ColumnElement[bool]:
    grain, start_ms, end_ms, _ = stretch
    if grain is TO_DATE:
        return between(grain.hours, end_ms // DAY.ms, end_ms // DAY.ms + 1)
    return between(grain.hours, start_ms // grain.ms, end_ms // grain.ms)

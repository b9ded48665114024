"""The rows of usage_rollups that the stretches of a report's period consist of, as a query (`rollup_table.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy import BigInteger

from llm_gateway.store.rollups import COUNTERS, CUSTOMER, DAY, PROVIDER, SERVICE, TO_DATE, Stretch
from llm_gateway.store.tables import usage_rollups

NUMBERS = {SERVICE: 1, CUSTOMER: 2, PROVIDER: 3}
"""Values of the column `dimension`."""

UNKNOWN_MINUTES, NO_MINUTES = -1, 0
"""Values of the column `minutes`: of an hour in which a customer may have called at any minute, and of other rows."""

NEGATED = {name: sa.type_coerce(-usage_rollups.c[name], BigInteger).label(name) for name in COUNTERS}
"""SQL expression for the negated value of each counter, to subtract hours from a day."""

_Numbered: TypeAlias = tuple[int, Stretch]
"""A stretch with its place in the query."""


def rows_of(
    dimension: str,
    stretches: Sequence[Stretch],
    counters: tuple[str, ...],
    *,
    is_sqlite: bool,
) -> sa.Select[Any] | sa.CompoundSelect[Any]:
    """Return a query for rows of (number of a name, counters) of all stretches.

    Its bind parameters have the values of `buckets`, so that it fits other stretches of the same grains and signs.
    """
    numbered = list(enumerate(stretches))
    if is_sqlite:  # it reads each stretch in the order of the table
        return sa.union_all(*(_select(dimension, [each], counters) for each in numbered))
    return _select(dimension, numbered, counters)


def buckets(stretches: Sequence[Stretch]) -> dict[str, int]:
    """Return the values of the bind parameters of `rows_of`."""
    values = {}
    for at, each in enumerate(stretches):
        values[f"first_{at}"], values[f"end_{at}"] = _limits(each)
    return values


def bucket_numbers(stretch: Stretch) -> range:
    """Return the numbers of a stretch's buckets, as the column `bucket` has them."""
    return range(*_limits(stretch))


def between(hours: int, first: int | sa.BindParameter[int], end: int | sa.BindParameter[int]) -> sa.ColumnElement[bool]:
    """Return the condition for the buckets of a length from `first` to before `end`."""
    rollups = usage_rollups.c
    return sa.and_(rollups.hours == hours, rollups.bucket >= first, rollups.bucket < end)


def _select(dimension: str, stretches: Sequence[_Numbered], counters: tuple[str, ...]) -> sa.Select[Any]:
    """Return a query for the rows of stretches that have no bucket in common.

    Postgres reads all of them by one bitmap: page after page, and several pages at a time from a disk.
    """
    rollups, signs = usage_rollups.c, [each.sign for _, each in stretches]
    figures: list[sa.ColumnElement[int]] = [rollups[name] for name in counters]
    if max(signs) < 0:
        figures = [NEGATED[name] for name in counters]
    elif min(signs) < 0:
        is_negative = _is_negative(stretches)
        figures = [sa.case((is_negative, NEGATED[name]), else_=rollups[name]).label(name) for name in counters]
    # The dimension is in each part, since the index begins with it.
    parts = (sa.and_(rollups.dimension == NUMBERS[dimension], _buckets_of(each)) for each in stretches)
    return sa.select(rollups.name, *figures).where(sa.or_(*parts))


def _is_negative(stretches: Sequence[_Numbered]) -> sa.ColumnElement[bool]:
    """Return the condition for the rows to subtract, in one comparison for each grain if that will do."""
    added = {each.grain for _, each in stretches if each.sign > 0}
    return sa.or_(
        *(
            _buckets_of((at, each)) if each.grain in added else usage_rollups.c.hours == each.grain.hours
            for at, each in stretches
            if each.sign < 0
        )
    )


def _buckets_of(numbered: _Numbered) -> sa.ColumnElement[bool]:
    at, stretch = numbered
    first, end = _limits(stretch)
    return between(
        stretch.grain.hours,
        sa.bindparam(f"first_{at}", first, sa.Integer),
        sa.bindparam(f"end_{at}", end, sa.Integer),
    )


def _limits(stretch: Stretch) -> tuple[int, int]:
    """Return the first bucket of a stretch, and the one after its last."""
    grain, start_ms, end_ms, _ = stretch
    if grain is TO_DATE:
        return end_ms // DAY.ms, end_ms // DAY.ms + 1
    return start_ms // grain.ms, end_ms // grain.ms

"""Compute usage totals by every combination of dimensions (the cube) from records. No SQL.

A request counts once, at the provider and model that answered or were tried last (for a hit of the cache: that once
answered); tokens and cost count at the provider and model of each attempt. So the totals of a bucket add up to all
requests, and to all that was billed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from operator import attrgetter
from typing import NamedTuple, TypeAlias

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.store.rollups import DAY, HOUR, HOUR_MS, Grain, Totals


class Dimension(NamedTuple):
    """A dimension of the cube: the column of `usage_cube`, and the attribute of records that it holds."""

    name: str
    attribute: str


ATTEMPT_DIMENSIONS = (Dimension("model", "model"), Dimension("provider", "provider"))
"""Dimensions that an attempt can have another value of than its record, by attributes of the same names."""

RECORD_DIMENSIONS = (
    Dimension("key", "key"),
    Dimension("team", "team_id"),
    Dimension("service", "service"),
    Dimension("task_type", "task_type"),
    Dimension("agent", "agent"),
)

DIMENSIONS = ATTEMPT_DIMENSIONS + RECORD_DIMENSIONS
"""All dimensions, in the order of the cube's columns. A new one is a row here and a column in a migration."""

Values: TypeAlias = tuple[str | None, ...]
"""The value of each dimension, None if a record has none."""

CubeKey: TypeAlias = tuple[int, Values]
"""(number of the hour since 1970, values)."""

LONG = Grain(8 * DAY.hours)
"""Buckets for reports of weeks and months, which read a third to a sixth of the rows that days would be."""

GRAINS = (HOUR, DAY, LONG)
"""Buckets that every record adds to; each lies within one bucket of every longer grain."""


class Margin(NamedTuple):
    """Dimensions by which usage is also summed alone, whatever the others are: the cube's totals at its margin.

    Its rows have `ALL` in the columns of the other dimensions.
    """

    number: int
    names: tuple[str, ...]

    def hours(self, grain: Grain) -> int:
        """Return what its rows have in the column `hours`, for buckets of a grain."""
        return -(1000 * self.number + grain.hours) if self.number else grain.hours


WHOLE = Margin(0, tuple(dimension.name for dimension in DIMENSIONS))
"""The rows by every combination of all dimensions."""

MARGINS = (
    Margin(1, ("model", "provider")),
    Margin(2, ("key", "team")),
    Margin(3, ("service", "task_type", "agent")),
)
"""Margins that are summed once a day is over. Each dimension is in one, together with those that hardly multiply it."""

MARGIN_GRAINS = (HOUR, DAY)
"""Buckets of the margins. Hours are for the days of other time zones."""

ALL = 0
"""Stands for all names of a dimension, in the place of the number of one."""


def margin_of(names: Collection[str]) -> Margin:
    """Return the margin that has all these dimensions, else the whole cube."""
    return next((margin for margin in MARGINS if set(margin.names).issuperset(names)), WHOLE)


_of_attempt = attrgetter(*(dimension.attribute for dimension in ATTEMPT_DIMENSIONS))
_of_record = attrgetter(*(dimension.attribute for dimension in RECORD_DIMENSIONS))


def cube_sums(records: Iterable[UsageRecord]) -> dict[CubeKey, Totals]:
    """Sum records by hour and combination of dimensions."""
    sums: defaultdict[CubeKey, Totals] = defaultdict(Totals)
    for record in records:
        hour, shared, place = record.at_ms // HOUR_MS, _of_record(record), _of_attempt(record)
        totals = sums[(hour, place + shared)]
        totals.count(record)
        for attempt in record.attempts:
            usage = attempt.usage
            if attempt.cost_nanos or usage.input_tokens or usage.output_tokens:
                attempt_place = _of_attempt(attempt)
                bought = totals if attempt_place == place else sums[(hour, attempt_place + shared)]
                bought.buy(usage, attempt.cost_nanos)
    return sums


def cube_change(before: Iterable[UsageRecord], after: Iterable[UsageRecord]) -> Mapping[CubeKey, Totals]:
    """Return what to add to the hourly sums when the records `before` are replaced by `after`."""
    differences = cube_sums(after)
    for key, totals in cube_sums(before).items():
        differences[key] = differences.get(key, Totals()).minus(totals)
    return differences

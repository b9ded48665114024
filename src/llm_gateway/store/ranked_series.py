"""Series of the largest groups of a period, and of all others together.

A period can have hundreds of keys, of which a chart shows seven. The cube tells these by their totals over the period;
then only their parts are read, and those of all groups together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from sqlalchemy.engine import Connection

from llm_gateway.store.cube import WHOLE
from llm_gateway.store.cube_periods import Part
from llm_gateway.store.record_sums import Group
from llm_gateway.store.report_dimensions import Source
from llm_gateway.store.rollups import HOUR_MS, Totals
from llm_gateway.store.usage_reports import READ_LIMIT_S, Grouping, UsageReports

Value: TypeAlias = Callable[[Totals], int]
"""A metric: a counter, or the sum of some."""

NOTHING = Totals()


class Line(NamedTuple):
    """The values of a group, one for each part; those of all other groups together if `group` is None."""

    group: Group | None
    values: list[int]


class RankedSeries:
    """Series of the reports."""

    def __init__(self, reports: UsageReports) -> None:
        self._reports = reports

    def lines(self, grouping: Grouping, parts: Sequence[Part], limit: int, value: Value) -> list[Line]:
        """Return the lines of up to `limit` groups, the largest first, then that of the others, if there are any.

        A group with requests has a line even if its value is 0. Raises as `UsageReports.series`.
        """
        if _is_of_margin(grouping) and not any(edge % HOUR_MS for part in parts for edge in part):
            with self._reports.database.read(READ_LIMIT_S) as connection:
                return self._of_margin(connection, grouping, parts, limit, value)
        sums = self._reports.series(grouping, parts)
        ranked = _ranked(_added(sums), value)
        largest = {group: [0] * len(sums) for group in ranked[:limit]}
        others = [0] * len(sums)  # all in one: a list for each of 200,000 groups would take gigabytes
        for at, groups in enumerate(sums):
            for group, totals in groups.items():
                largest.get(group, others)[at] += value(totals)
        lines = [Line(group, values) for group, values in largest.items()]
        return [*lines, Line(None, others)] if len(ranked) > limit else lines

    def _of_margin(
        self, connection: Connection, grouping: Grouping, parts: Sequence[Part], limit: int, value: Value
    ) -> list[Line]:
        cube, query, period = self._reports.cube, grouping.cube_query, (parts[0][0], parts[-1][1])
        self._reports.check(connection, grouping, period)
        by_number = cube.totals(connection, query, [period])
        (by_name,) = cube.named(connection, by_number)
        numbers = dict(zip(by_name, by_number[0], strict=True))
        ranked = _ranked(by_name, value)
        shown = {group: numbers[group] for group in ranked[:limit]}
        among = query._replace(among=tuple(number for (number,) in shown.values()))
        found = cube.totals(connection, among, parts)
        lines = [
            Line(group, [value(part.get(numbers_of_it, NOTHING)) for part in found])
            for group, numbers_of_it in shown.items()
        ]
        if len(ranked) <= limit:
            return lines
        every = cube.totals(connection, query._replace(dimensions=()), parts)
        of_all = [value(part.get((), NOTHING)) for part in every]
        of_shown = [sum(column) for column in zip(*(line.values for line in lines), strict=True)]
        return [*lines, Line(None, [whole - part for whole, part in zip(of_all, of_shown, strict=True)])]


def _is_of_margin(grouping: Grouping) -> bool:
    """Return whether a margin of the cube has the groups. All rows of the whole cube are better read once."""
    return grouping.source is Source.CUBE and len(grouping.dimensions) == 1 and grouping.cube_query.margin is not WHOLE


def _ranked(sums: Mapping[Group, Totals], value: Value) -> list[Group]:
    """Return the groups with a value or requests, the largest first."""
    there = {group: value(totals) for group, totals in sums.items() if value(totals) or totals.requests}
    return sorted(there, key=lambda group: (-there[group], group))


def _added(sums: Iterable[Mapping[Group, Totals]]) -> dict[Group, Totals]:
    found: dict[Group, Totals] = {}
    for groups in sums:
        for group, totals in groups.items():
            known = found.get(group)
            found[group] = totals if known is None else known.plus(totals)
    return found

"""Sum usage records by dimensions that no stored sums have, or over parts of hours.

Nearly all records have one attempt, or none: the database sums them. A record with several attempts can have spent
money at several models and providers, so it is summed here, attempt by attempt (the rule of `cube.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy import func
from sqlalchemy.engine import Connection

from llm_gateway.domain.usage import AttemptRecord, UsageRecord
from llm_gateway.store.attempts_json import AttemptTexts
from llm_gateway.store.cube_table import LONGEST_NAME
from llm_gateway.store.record_counters import RECORD_COUNTERS
from llm_gateway.store.record_filter import CLOCK_SLACK_MS
from llm_gateway.store.record_rows import SUMMED_COLUMNS, summed_records
from llm_gateway.store.report_dimensions import DIMENSION_BY_NAME, ReportDimension
from llm_gateway.store.rollups import Totals
from llm_gateway.store.tables import usage_records
from llm_gateway.store.usage import first_id

ROWS_AT_ONCE = 500
"""Records with several attempts that are in memory at a time."""

Group = tuple[str, ...]
"""The value of each dimension of a report, "" without one."""

_of = usage_records.c
_attempts = func.coalesce(_of.attempts, "")
_HAS_SEVERAL_ATTEMPTS = sa.or_(_attempts.like("%],[%"), _attempts.like("[{%"))
"""True for several attempts, and for the few others whose text looks alike (`attempts_json.py`)."""


class RecordSums:
    """Sums over stored records. Its methods run in the caller's transaction."""

    def __init__(self, texts: AttemptTexts) -> None:
        self._texts = texts

    def sums(
        self,
        connection: Connection,
        dimensions: Sequence[ReportDimension],
        filters: Mapping[str, str],
        period: tuple[int, int],
    ) -> dict[Group, Totals]:
        """Return the totals by group of the records that arrived from `start` to before `end` (milliseconds UTC).

        `filters` are exact values by the name of a dimension.
        """
        limits = _limits(period)
        texts = [func.substr(dimension.text, 1, LONGEST_NAME) for dimension in dimensions]
        conditions = [DIMENSION_BY_NAME[name].text == value for name, value in filters.items()]
        is_split = any(name in filters or any(each.name == name for each in dimensions) for name in _OF_ATTEMPTS)
        plain = sa.select(*texts, *RECORD_COUNTERS).where(*limits, *conditions).group_by(*texts)
        rows = connection.execute(plain.where(sa.not_(_HAS_SEVERAL_ATTEMPTS)) if is_split else plain)
        width = len(dimensions)
        found = {tuple(row[:width]): Totals(*row[width:]) for row in rows if row[width]}
        if is_split:
            self._add_split(connection, found, (dimensions, filters), limits)
        return found

    def _add_split(
        self,
        connection: Connection,
        found: dict[Group, Totals],
        wanted: tuple[Sequence[ReportDimension], Mapping[str, str]],
        limits: Sequence[sa.ColumnElement[bool]],
    ) -> None:
        dimensions, filters = wanted
        conditions = [
            DIMENSION_BY_NAME[name].text == value for name, value in filters.items() if name not in _OF_ATTEMPTS
        ]
        texts = [func.substr(each.text, 1, LONGEST_NAME).label(f"group_{at}") for at, each in enumerate(dimensions)]
        query = sa.select(*SUMMED_COLUMNS, *texts).where(*limits, *conditions, _HAS_SEVERAL_ATTEMPTS)
        added: defaultdict[Group, Totals] = defaultdict(Totals)
        for rows in connection.execute(query).partitions(ROWS_AT_ONCE):
            for row, record in zip(rows, summed_records(connection, self._texts, rows), strict=True):
                group = dict(
                    zip((each.name for each in dimensions), row[-len(dimensions) :] if dimensions else (), strict=True)
                )
                _count(added, record, group, filters)
        for key, totals in added.items():
            known = found.get(key)
            found[key] = totals if known is None else known.plus(totals)


def _count(
    added: defaultdict[Group, Totals], record: UsageRecord, group: Mapping[str, str], filters: Mapping[str, str]
) -> None:
    """Count a record at its own place, and what each attempt bought at the attempt's place."""
    places: list[UsageRecord | AttemptRecord] = [record, *record.attempts]
    for each in places:
        place = {name: (getattr(each, name) or "")[:LONGEST_NAME] for name in _OF_ATTEMPTS}
        if any(place[name] != filters.get(name, place[name]) for name in _OF_ATTEMPTS):
            continue
        totals = added[tuple(place.get(name, value) for name, value in group.items())]
        if isinstance(each, UsageRecord):
            totals.count(each)
        else:
            totals.buy(each.usage, each.cost_nanos)


def _limits(period: tuple[int, int]) -> list[sa.ColumnElement[bool]]:
    start_ms, end_ms = period
    return [
        _of.id >= first_id(start_ms - CLOCK_SLACK_MS),
        _of.id < first_id(end_ms + CLOCK_SLACK_MS),
        _of.at_ms >= start_ms,
        _of.at_ms < end_ms,
    ]


_OF_ATTEMPTS = tuple(name for name, dimension in DIMENSION_BY_NAME.items() if dimension.is_of_attempts)

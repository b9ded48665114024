"""Filters of usage records, as SQL conditions, and the hours in which matching records can be."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.store.cube import WHOLE, margin_of
from llm_gateway.store.cube_table import LONGEST_NAME, built_until
from llm_gateway.store.report_dimensions import DIMENSION_BY_NAME, Source, tag_value
from llm_gateway.store.rollup_rows import NUMBERS, UNKNOWN_MINUTES
from llm_gateway.store.rollup_table import SUMS, number_of
from llm_gateway.store.rollups import CUSTOMER, DAY, ERRORS, HOUR, MINUTE_MS, Grain
from llm_gateway.store.tables import usage_cube, usage_names, usage_records, usage_rollups

CLOCK_SLACK_MS = 60_000
"""Maximum milliseconds between `at_ms` of a record and the time in its id."""

FIRST_DAYS, MOST_DAYS = 2, 32
"""Days whose sums are searched at a time: 2 at first, then twice as many each time, up to 32."""

JOINED_MS = 10 * MINUTE_MS
"""Longest gap in milliseconds between stretches that are searched together."""

ERROR = "error"
"""The outcome of a filter for all outcomes that reports count as errors."""

MOST_REQUESTS = sys.maxsize
"""An unknown number of requests."""

_of = usage_records.c


class Stretch(NamedTuple):
    """A stretch of time, milliseconds UTC, the end excluded, and how many requests in it match at most."""

    start_ms: int
    end_ms: int
    requests: int


class RecordFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Conditions that a record must meet, all of them; None and an empty mapping match any.

    `start_ms` and `end_ms` limit its arrival (milliseconds UTC, the end excluded). `values` are exact values by the
    name of a dimension. `tag` is a name, or a name and a value.
    """

    start_ms: int
    end_ms: int
    values: Mapping[str, str] = {}
    client_request_id: str | None = None
    outcome: str | None = None
    error_code: str | None = None
    tag: tuple[str, str | None] | None = None
    cost_status: str | None = None
    min_cost_nanos: int | None = None
    min_latency_ms: int | None = None


def conditions(wanted: RecordFilter, *, is_sqlite: bool) -> list[sa.ColumnElement[bool]]:
    """Return the SQL conditions of a filter."""
    found = [_of.at_ms >= wanted.start_ms, _of.at_ms < wanted.end_ms]
    found += of_values(wanted.values)
    if wanted.client_request_id is not None:  # not a plain comparison: SQLite then overlooks the partial index
        found.append(sa.func.coalesce(_of.client_request_id, "") == wanted.client_request_id)
    if wanted.outcome == ERROR:
        found.append(_of.outcome.in_(sorted(ERRORS)))
    elif wanted.outcome is not None:
        found.append(_of.outcome == wanted.outcome)
    if wanted.error_code is not None:
        found.append(_of.error_code == wanted.error_code)
    if wanted.tag is not None:
        tag, value = wanted.tag
        text = tag_value(tag, is_sqlite=is_sqlite)
        found.append(text != "" if value is None else text == value)
    if wanted.cost_status is not None:
        found.append(_of.cost_status == wanted.cost_status)
    if wanted.min_cost_nanos is not None:
        found.append(_of.cost_nanos >= wanted.min_cost_nanos)
    if wanted.min_latency_ms is not None:
        found.append(_of.latency_ms >= wanted.min_latency_ms)
    return found


def of_values(values: Mapping[str, str]) -> list[sa.ColumnElement[bool]]:
    """Return the SQL conditions for exact values by the name of a dimension."""
    return [DIMENSION_BY_NAME[name].text == value for name, value in values.items()]


class HourFinder:
    """The hours with requests of a customer, key, service, …: their sums tell which records need not be read.

    Of a customer's hours the minutes are known, too.

    Sums count all stored records with a value, also those that other conditions of the filter exclude.

    `is_cube_whole`: older records have been added to the cube, so that it can be used. `joined_ms` is the longest gap
    in milliseconds between minutes that make one stretch.
    """

    def __init__(
        self, connection: Connection, wanted: RecordFilter, *, is_cube_whole: bool, joined_ms: int = JOINED_MS
    ) -> None:
        self._connection = connection
        self._wanted = wanted
        by_source: dict[Source, dict[str, str]] = {}
        for name, value in wanted.values.items():
            by_source.setdefault(DIMENSION_BY_NAME[name].source, {})[name] = value
        customer = by_source.get(Source.CUSTOMERS, {}).get("customer")
        self._is_of_customer = customer is not None
        self._minutes: dict[int, int] = {}
        self._joined_ms = joined_ms
        self._customer = None if customer is None else number_of(connection, CUSTOMER, customer)
        in_cube = by_source.get(Source.CUBE, {}) if is_cube_whole else {}
        self._numbers = {name: self._number(value[:LONGEST_NAME]) for name, value in in_cube.items()}

    def stretches(self) -> Iterator[Stretch]:
        """Yield stretches of time with matching requests, newest first.

        A stretch whose end is its start says only how far the search has come.
        """
        start_ms, end_ms = self._wanted.start_ms, self._wanted.end_ms
        if not self._is_of_customer and not self._numbers:
            yield Stretch(start_ms, end_ms, MOST_REQUESTS)
            return
        if None in self._numbers.values() or (self._is_of_customer and self._customer is None):
            return  # no record has this name
        days = FIRST_DAYS
        end_day, first_day = -(-end_ms // DAY.ms), start_ms // DAY.ms
        while end_day > first_day:
            start_day = max(first_day, end_day - days)
            yield from self._in_days(range(start_day, end_day))
            yield Stretch(start_day * DAY.ms, start_day * DAY.ms, 0)
            end_day, days = start_day, min(days * 2, MOST_DAYS)

    def _in_days(self, days: range) -> Iterator[Stretch]:
        busy_days = self._busy(DAY, list(days))
        busy_hours = self._busy(HOUR, [day * 24 + hour for day in busy_days for hour in range(24)])
        for start_ms, end_ms, requests in _joined(self._runs(busy_hours), self._joined_ms):
            yield Stretch(max(start_ms, self._wanted.start_ms), min(end_ms, self._wanted.end_ms), requests)

    def _runs(self, busy_hours: Mapping[int, int]) -> Iterator[Stretch]:
        """Yield the minutes of these hours with requests, newest first; an hour whole if its minutes are not known."""
        for hour in sorted(busy_hours, reverse=True):
            bits, start_ms, requests = self._minutes.get(hour, UNKNOWN_MINUTES), hour * HOUR.ms, busy_hours[hour]
            if bits <= 0:
                yield Stretch(start_ms, start_ms + HOUR.ms, requests)
                continue
            for minute in range(59, -1, -1):
                if bits >> minute & 1:
                    begin_ms = start_ms + minute * MINUTE_MS
                    yield Stretch(begin_ms, begin_ms + MINUTE_MS, requests)

    def _busy(self, grain: Grain, buckets: list[int]) -> dict[int, int]:
        """Return those of the buckets with matching requests, and how many these are at most."""
        found = dict.fromkeys(buckets, MOST_REQUESTS)
        if found and self._customer is not None:
            rollups = usage_rollups.c
            query = sa.select(rollups.bucket, rollups.requests, rollups.minutes).where(
                rollups.dimension == NUMBERS[CUSTOMER],
                rollups.hours == grain.hours,
                rollups.bucket.in_(found),
                rollups.name == self._customer,
            )
            rows = self._connection.execute(query).all()
            found = {row.bucket: row.requests for row in rows}
            self._minutes = {row.bucket: row.minutes for row in rows}
        if found and self._numbers:
            found = {bucket: min(found[bucket], requests) for bucket, requests in self._in_cube(grain, [*found])}
        return {bucket: requests for bucket, requests in found.items() if requests}

    def _in_cube(self, grain: Grain, buckets: list[int]) -> Iterator[tuple[int, int]]:
        """Yield those of the buckets with matching requests, and their number; past days are read from a margin."""
        margin = margin_of(self._numbers)
        end = 0 if margin is WHOLE else built_until(self._connection) * DAY.hours // grain.hours
        past, others = ([each for each in buckets if (each < end) == is_past] for is_past in (True, False))
        for part, some in ((margin, past), (WHOLE, others)):
            query = sa.select(usage_cube.c.bucket, SUMS["requests"]).where(
                usage_cube.c.hours == part.hours(grain),
                usage_cube.c.bucket.in_(some),
                *(usage_cube.c[name] == number for name, number in self._numbers.items()),
            )
            if some:
                yield from map(tuple, self._connection.execute(query.group_by(usage_cube.c.bucket)))

    def _number(self, name: str) -> int | None:
        query = sa.select(usage_names.c.id).where(usage_names.c.name == name)
        number: int | None = self._connection.execute(query).scalar()
        return number


def _joined(stretches: Iterable[Stretch], longest_gap_ms: int) -> Iterator[Stretch]:
    """Join stretches, newest first, that lie close together; requests of each hour are counted once."""
    last: Stretch | None = None
    for start_ms, end_ms, requests in stretches:
        if last is None:
            last = Stretch(start_ms, end_ms, requests)
        elif last.start_ms - end_ms <= longest_gap_ms:
            is_same_hour = start_ms // HOUR.ms == last.start_ms // HOUR.ms
            last = Stretch(start_ms, last.end_ms, last.requests + (0 if is_same_hour else requests))
        else:
            yield last
            last = Stretch(start_ms, end_ms, requests)
    if last is not None:
        yield last

"""Endpoints of usage by one or two dimensions, and over time."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from functools import partial
from io import StringIO
from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import StreamingResponse
from starlette.requests import Request

from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.management.calendar_period import DEFAULT_DAYS, Period, read_period
from llm_gateway.control.management.cursor import open_cursor, seal
from llm_gateway.control.management.freshness import UpToDate
from llm_gateway.control.management.own_usage import OwnUsage
from llm_gateway.control.management.report_schemas import (
    Breakdown,
    BreakdownQuery,
    BreakdownRow,
    Figures,
    ReportQuery,
    Series,
    SeriesLine,
    SeriesQuery,
    csv_header,
    csv_row,
    figures,
    metric_counters,
    metric_value,
    shown_metric,
    unknown_dimension,
)
from llm_gateway.control.management.router import Router
from llm_gateway.errors import Invalid
from llm_gateway.store.ranked_series import Line, RankedSeries
from llm_gateway.store.ranked_usage import RankedUsage
from llm_gateway.store.record_sums import Group
from llm_gateway.store.report_dimensions import DIMENSION_BY_NAME, TAG_PREFIX, ReportDimension, Source
from llm_gateway.store.rollups import Totals
from llm_gateway.store.usage_reports import MOST_RECORD_DAYS, Grouping, UsageReports

MOST_DIMENSIONS = 2
_TAG = re.compile(r"[A-Za-z0-9_.-]{1,64}")
CSV: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}


def breakdown_router(reports: UsageReports, up_to_date: UpToDate, own: OwnUsage) -> Router:
    """Build the endpoint of breakdowns."""
    router, ranked = Router("/api/v1/usage", "usage"), RankedUsage(reports)

    @router.get("/breakdown", responses=problems(422) | CSV, response_model=Breakdown)
    def usage_breakdown(request: Request, query: Annotated[BreakdownQuery, Query()]) -> Any:
        dimensions = read_dimensions(reports, query.group_by)
        grouping = Grouping(dimensions, own.filters(request, query.filters()))
        period = _period(query, grouping, up_to_date())
        given = query.model_dump(exclude={"cursor", "limit", "format"})
        start = 0 if query.cursor is None else _position(open_cursor(query.cursor, given))
        before = period.previous()
        parts = (period.start_ms, period.end_ms), (before.start_ms, before.end_ms)
        page = ranked.page(grouping, *parts, start, query.limit)
        names = [dimension.name for dimension in dimensions]
        rows = [_row(names, *row) for row in page.rows]
        _add_names(reports, names, rows)
        cursor = seal(given, str(start + query.limit)) if page.has_more else None
        if query.format == "csv":
            return csv_response("breakdown.csv", csv_header(names), (csv_row(names, row) for row in rows), cursor)
        return Breakdown(
            start=period.shown(period.start_ms),
            end=period.shown(period.end_ms),
            previous_from=period.shown(before.start_ms),
            tz=query.tz,
            totals=Figures(**figures(page.totals, page.totals_before)),
            rows=[BreakdownRow(**row) for row in rows],
            next_cursor=cursor,
        )

    return router


def series_router(reports: UsageReports, up_to_date: UpToDate, own: OwnUsage) -> Router:
    """Build the endpoint of series."""
    router, ranked = Router("/api/v1/usage", "usage"), RankedSeries(reports)

    @router.get("/series", responses=problems(422))
    def usage_series(request: Request, query: Annotated[SeriesQuery, Query()]) -> Series:
        dimensions = read_dimensions(reports, query.group_by, most=1) if query.group_by else ()
        grouping = Grouping(dimensions, own.filters(request, query.filters()), metric_counters(query.metric))
        period = _period(query, grouping, up_to_date())
        parts = period.buckets(query.bucket)
        lines = ranked.lines(grouping, parts, query.limit, partial(metric_value, query.metric))
        return Series(
            metric=query.metric,
            group_by=query.group_by,
            bucket=query.bucket,
            start=period.shown(period.start_ms),
            end=period.shown(period.end_ms),
            tz=query.tz,
            total=shown_metric(query.metric, sum(sum(line.values) for line in lines)),
            buckets=[period.shown(start) for start, _ in parts],
            series=_shown_lines(reports, query, lines),
        )

    return router


def _period(query: ReportQuery, grouping: Grouping, now_ms: int) -> Period:
    """Return the period of a report: by default the last 30 days, or the most that records are summed of."""
    days = MOST_RECORD_DAYS if grouping.source is Source.RECORDS else DEFAULT_DAYS
    return read_period(query.start, query.end, query.tz, now_ms, days=days)


def read_dimensions(reports: UsageReports, text: str, most: int = MOST_DIMENSIONS) -> tuple[ReportDimension, ...]:
    """Return the dimensions in `group_by`.

    Raises:
        Invalid: one does not exist or is repeated, or there are more than `most`.
    """
    found = []
    for name in text.split(","):
        tag = name.removeprefix(TAG_PREFIX)
        if tag != name and _TAG.fullmatch(tag):
            found.append(reports.tag(tag))
        elif name in DIMENSION_BY_NAME:
            found.append(DIMENSION_BY_NAME[name])
        else:
            raise unknown_dimension(name)
    if len(found) > most or len({each.name for each in found}) < len(found):
        amount = "one dimension" if most == 1 else "one dimension, or two different ones"
        raise Invalid(f"group_by takes {amount}, not {text.count(',') + 1}.", loc=("query", "group_by"))
    return tuple(found)


def csv_response(
    name: str, header: list[str], rows: Iterable[list[str]], cursor: str | None = None
) -> StreamingResponse:
    """Return rows as a CSV file (RFC 4180), sent line by line; the next page's cursor is in `x-next-cursor`."""
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    if cursor is not None:
        headers["x-next-cursor"] = cursor
    return StreamingResponse(_csv_lines([header], rows), media_type="text/csv; charset=utf-8", headers=headers)


def _csv_lines(*parts: Iterable[list[str]]) -> Iterator[str]:
    buffer = StringIO()
    writer = csv.writer(buffer)
    for rows in parts:
        for row in rows:
            writer.writerow(row)
            if buffer.tell() > 1 << 16:
                yield buffer.getvalue()
                buffer.seek(0)
                buffer.truncate()
    yield buffer.getvalue()


def _position(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,7}", text):
        raise Invalid("cursor is not one that this API returned: leave it out.", loc=("query", "cursor"))
    return int(text)


def _row(names: list[str], group: Group, totals: Totals, before: Totals) -> dict[str, Any]:
    return {"group": dict(zip(names, group, strict=True)), **figures(totals, before)}


def _shown_lines(reports: UsageReports, query: SeriesQuery, lines: list[Line]) -> list[SeriesLine]:
    names = [line.group[0] if line.group else None for line in lines]
    labels = reports.names(query.group_by or "", [name for name in names if name])
    return [
        SeriesLine(
            name=name,
            label=labels.get(name or ""),
            total=shown_metric(query.metric, sum(line.values)),
            values=[shown_metric(query.metric, value) for value in line.values],
        )
        for name, line in zip(names, lines, strict=True)
    ]


def _add_names(reports: UsageReports, dimensions: list[str], rows: list[dict[str, Any]]) -> None:
    """Add the names of the keys and teams, which groups have by their ids."""
    found = {name: reports.names(name, {row["group"][name] for row in rows}) for name in dimensions}
    for row in rows:
        row["names"] = {name: label for name in found if (label := found[name].get(row["group"][name])) is not None}

"""Endpoint of latency percentiles, in all and to the first token, over the newest answers of providers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import Query
from pydantic import BaseModel, Field
from starlette.requests import Request

from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.management.calendar_period import read_period
from llm_gateway.control.management.fields import Timestamp, iso
from llm_gateway.control.management.freshness import UpToDate
from llm_gateway.control.management.own_usage import OwnUsage
from llm_gateway.control.management.report_schemas import ReportQuery
from llm_gateway.control.management.router import Router
from llm_gateway.store.record_filter import RecordFilter
from llm_gateway.store.record_search import AnswerTiming, RecordSearch

SAMPLE = 2_000
"""Answers that percentiles are of, at most: some 40 ms to read, and 20 of them are above the 99th percentile."""
MOST_ROWS = 100


class LatencyQuery(ReportQuery):
    """Parameters of percentiles."""

    group_by: Annotated[
        Literal["provider", "model"] | None, Field(description="a row for each provider or model of the sample")
    ] = None


class Percentiles(BaseModel):
    """The value that half of the sample, 95 % and 99 % of it do not exceed; null without a sample."""

    answers: Annotated[int, Field(description="answers that have this time")]
    p50_ms: int | None
    p95_ms: int | None
    p99_ms: int | None


class Latency(BaseModel):
    """Time in all, and until the first part of a streamed answer."""

    latency: Percentiles
    first_token: Percentiles


class LatencyRow(Latency):
    """Percentiles of a group."""

    name: str


class LatencyReport(Latency):
    """Percentiles of the newest answers of a period, and of groups of them, the largest first."""

    since: Annotated[Timestamp | None, Field(description="when the oldest request of the sample came")]
    is_whole: Annotated[bool, Field(description="true: the sample is all answers of the period")]
    rows: list[LatencyRow]


def latency_router(search: RecordSearch, up_to_date: UpToDate, own: OwnUsage) -> Router:
    """Build the endpoint of percentiles."""
    router = Router("/api/v1/usage", "usage")

    @router.get("/latency", responses=problems(422))
    def usage_latency(request: Request, query: Annotated[LatencyQuery, Query()]) -> LatencyReport:
        period = read_period(query.start, query.end, query.tz, up_to_date())
        values = own.filters(request, query.filters())
        wanted = RecordFilter(start_ms=period.start_ms, end_ms=period.end_ms, values=values)
        sample = search.timings(wanted, SAMPLE)
        groups: defaultdict[str, list[AnswerTiming]] = defaultdict(list)
        if query.group_by is not None:
            for each in sample.timings:
                groups[getattr(each, query.group_by)].append(each)
        largest = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))[:MOST_ROWS]
        return LatencyReport(
            since=None if sample.oldest_ms is None else iso(sample.oldest_ms),
            is_whole=sample.is_whole,
            rows=[LatencyRow(name=name, **_times(timings)) for name, timings in largest],
            **_times(sample.timings),
        )

    return router


def _times(timings: Sequence[AnswerTiming]) -> dict[str, Percentiles]:
    return {
        "latency": percentiles([each.latency_ms for each in timings]),
        "first_token": percentiles([each.first_token_ms for each in timings if each.first_token_ms is not None]),
    }


def percentiles(values: Sequence[int]) -> Percentiles:
    """Return percentiles by the nearest rank: each is one of the values."""
    ranked = sorted(values)

    def at(part: float) -> int | None:
        return ranked[math.ceil(part * len(ranked)) - 1] if ranked else None

    return Percentiles(answers=len(ranked), p50_ms=at(0.5), p95_ms=at(0.95), p99_ms=at(0.99))

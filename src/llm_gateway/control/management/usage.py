"""Endpoints of the usage of the last days: requests, tokens and cost, in total and by provider, service or customer."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, BeforeValidator
from starlette.requests import Request

from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.management.freshness import UpToDate
from llm_gateway.control.management.own_usage import OwnUsage
from llm_gateway.control.management.recent_usage import RecentUsage
from llm_gateway.control.management.router import Router
from llm_gateway.domain.usage import NANOS_PER_USD
from llm_gateway.store.rollups import Totals

_DIGITS = re.compile(r"-?[0-9]{1,9}")


def digits(value: Any) -> Any:
    """Reject integers that are not plain digits; pydantic's conversion would accept "1_0" and "1.0" too.

    A negative one passes, so that the field's own bound says what it must be.

    Raises:
        ValueError: the value is not 1 to 9 digits, with or without a minus.
    """
    if isinstance(value, str) and not _DIGITS.fullmatch(value):
        raise ValueError("must be a whole number of at most 9 digits, such as 30")
    return value


Days = Annotated[
    int,
    Query(ge=1, le=365, description="length of the period: the last days × 24 hours, starting at a full hour"),
    BeforeValidator(digits),
]
Limit = Annotated[int, Query(ge=1, le=500, description="maximum number of rows"), BeforeValidator(digits)]


class CostStatusCounts(BaseModel):
    """Numbers of requests whose cost is exact, estimated, or unknown for lack of a price."""

    exact: int
    estimated: int
    unpriced: int


class UsageSummary(BaseModel):
    """Totals of the period."""

    period_days: int
    total_requests: int
    total_cost_usd: float
    total_tokens: int
    cached_requests: int
    error_requests: int
    cache_hit_rate: float
    cost_status_counts: CostStatusCounts


class ProviderUsage(BaseModel):
    """Usage of one provider: the cost of its attempts, and the requests that it answered or was the last to fail."""

    provider_name: str
    request_count: int
    total_cost_usd: float
    avg_latency_ms: float
    total_tokens: int


class ServiceUsage(BaseModel):
    """Usage of one calling service."""

    service_name: str
    request_count: int
    total_cost_usd: float
    total_tokens: int


class CustomerUsage(BaseModel):
    """Usage of one customer."""

    user_id: str
    request_count: int
    total_cost_usd: float


def usage_router(usage: RecentUsage, up_to_date: UpToDate, own: OwnUsage) -> Router:
    """Build the endpoints of the reports. Lists are sorted by cost, then by requests, highest first."""
    router = Router("/api/v1/usage", "usage")

    @router.get("/summary", responses=problems(422))
    def usage_summary(request: Request, days: Days = 30) -> UsageSummary:
        return _summary(days, usage.summary(days, up_to_date(), own.of_all(request)))

    @router.get("/by-provider", responses=problems(422))
    def usage_by_provider(request: Request, days: Days = 30) -> list[ProviderUsage]:
        return [
            _of_provider(row.name, row.totals) for row in usage.by_provider(days, up_to_date(), own.of_all(request))
        ]

    @router.get("/by-service", responses=problems(422))
    def usage_by_service(request: Request, days: Days = 30) -> list[ServiceUsage]:
        rows = usage.by_service(days, up_to_date(), own.of_all(request))
        return [_of_service(row.name, row.totals) for row in rows]

    @router.get("/by-customer", responses=problems(422))
    def usage_by_customer(request: Request, days: Days = 30, limit: Limit = 50) -> list[CustomerUsage]:
        return [
            CustomerUsage(user_id=row.name, request_count=row.requests, total_cost_usd=row.cost_nanos / NANOS_PER_USD)
            for row in usage.by_customer(days, up_to_date(), own.of_all(request), limit)
        ]

    return router


def _summary(days: int, totals: Totals) -> UsageSummary:
    return UsageSummary(
        period_days=days,
        total_requests=totals.requests,
        total_cost_usd=totals.cost_nanos / NANOS_PER_USD,
        total_tokens=totals.total_tokens,
        cached_requests=totals.cached_requests,
        error_requests=totals.error_requests,
        cache_hit_rate=totals.cache_hit_rate,
        cost_status_counts=CostStatusCounts(
            exact=totals.exact_requests, estimated=totals.estimated_requests, unpriced=totals.unpriced_requests
        ),
    )


def _of_provider(name: str, totals: Totals) -> ProviderUsage:
    return ProviderUsage(
        provider_name=name,
        request_count=totals.requests,
        total_cost_usd=totals.cost_nanos / NANOS_PER_USD,
        avg_latency_ms=totals.avg_latency_ms,
        total_tokens=totals.total_tokens,
    )


def _of_service(name: str, totals: Totals) -> ServiceUsage:
    return ServiceUsage(
        service_name=name,
        request_count=totals.requests,
        total_cost_usd=totals.cost_nanos / NANOS_PER_USD,
        total_tokens=totals.total_tokens,
    )

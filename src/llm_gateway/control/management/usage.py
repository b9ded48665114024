"""The usage reports."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, BeforeValidator

from llm_gateway.control.docs.openapi import problems
from llm_gateway.domain.usage import NANOS_PER_USD
from llm_gateway.errors import StoreUnavailable
from llm_gateway.store.rollups import Totals
from llm_gateway.store.usage import UsageStore

FLUSH_TIMEOUT_S = 5.0
_DIGITS = re.compile(r"[0-9]{1,9}")


def _digits(value: Any) -> Any:
    """A query's integer as it is written; the conversion after this would take "1_0" and "1.0" too."""
    if isinstance(value, str) and not _DIGITS.fullmatch(value):
        raise ValueError("a whole number is written in digits")
    return value


Days = Annotated[
    int, Query(ge=1, le=365, description="the last so many times 24 hours, to the hour"), BeforeValidator(_digits)
]
Limit = Annotated[int, Query(ge=1, le=500, description="so many rows at most"), BeforeValidator(_digits)]


class CostStatusCounts(BaseModel):
    """For how many requests the cost is how sure."""

    exact: int
    estimated: int
    unpriced: int


class UsageSummary(BaseModel):
    """Everything of the period."""

    period_days: int
    total_requests: int
    total_cost_usd: float
    total_tokens: int
    cached_requests: int
    error_requests: int
    cache_hit_rate: float
    cost_status_counts: CostStatusCounts


class ProviderUsage(BaseModel):
    """What was bought from a provider, and which requests it answered (or was the last one tried for)."""

    provider_name: str
    request_count: int
    total_cost_usd: float
    avg_latency_ms: float
    total_tokens: int


class ServiceUsage(BaseModel):
    """What a calling service asked for."""

    service_name: str
    request_count: int
    total_cost_usd: float
    total_tokens: int


class CustomerUsage(BaseModel):
    """What a customer asked for."""

    user_id: str
    request_count: int
    total_cost_usd: float


def usage_router(store: UsageStore, flush: Callable[[float], bool]) -> APIRouter:
    """The reports; lists are sorted by cost, then count, highest first.

    `flush(timeout seconds)` ships what the journal holds first, so that a report includes every answer given before it
    was asked for.
    """
    router = APIRouter(prefix="/api/v1/usage", tags=["usage"])

    def up_to_date() -> int:
        """The time in milliseconds UTC, once every answer given before it can be read."""
        if not flush(FLUSH_TIMEOUT_S):
            raise StoreUnavailable("The usage database is behind: try again.", retry_after_s=5)
        return time.time_ns() // 1_000_000

    @router.get("/summary", responses=problems(422))
    def usage_summary(days: Days = 30) -> UsageSummary:
        return _summary(days, store.summary(days, up_to_date()))

    @router.get("/by-provider", responses=problems(422))
    def usage_by_provider(days: Days = 30) -> list[ProviderUsage]:
        return [_of_provider(row.name, row.totals) for row in store.by_provider(days, up_to_date())]

    @router.get("/by-service", responses=problems(422))
    def usage_by_service(days: Days = 30) -> list[ServiceUsage]:
        return [_of_service(row.name, row.totals) for row in store.by_service(days, up_to_date())]

    @router.get("/by-customer", responses=problems(422))
    def usage_by_customer(days: Days = 30, limit: Limit = 50) -> list[CustomerUsage]:
        return [
            CustomerUsage(user_id=row.name, request_count=row.requests, total_cost_usd=row.cost_nanos / NANOS_PER_USD)
            for row in store.by_customer(days, up_to_date(), limit)
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

"""The usage reports."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from llm_gateway.domain.usage import NANOS_PER_USD
from llm_gateway.errors import StoreUnavailable
from llm_gateway.store.usage import UsageStore

FLUSH_TIMEOUT_S = 5.0
Days = Annotated[int, Query(ge=1, le=365, description="the last so many times 24 hours, to the hour")]


class UsageSummary(BaseModel):
    """Everything of the period. `cost_status_counts` says for how many requests the cost is how sure."""

    period_days: int
    total_requests: int
    total_cost_usd: float
    total_tokens: int
    cached_requests: int
    error_requests: int
    cache_hit_rate: float
    cost_status_counts: dict[str, int]


def usage_router(store: UsageStore, flush: Callable[[float], bool]) -> APIRouter:
    """The reports.

    `flush(timeout seconds)` ships what the journal holds first, so that a report includes every answer given before it
    was asked for.
    """
    router = APIRouter(prefix="/api/v1/usage", tags=["usage"])

    @router.get("/summary")
    def summary(days: Days = 30) -> UsageSummary:
        if not flush(FLUSH_TIMEOUT_S):
            raise StoreUnavailable("The usage database is behind: try again.", retry_after_s=5)
        found = store.summary(days, time.time_ns() // 1_000_000)
        return UsageSummary(
            period_days=days,
            total_requests=found.requests,
            total_cost_usd=found.cost_nanos / NANOS_PER_USD,
            total_tokens=found.total_tokens,
            cached_requests=found.cached_requests,
            error_requests=found.error_requests,
            cache_hit_rate=found.cache_hit_rate,
            cost_status_counts={
                "exact": found.exact_requests,
                "estimated": found.estimated_requests,
                "unpriced": found.unpriced_requests,
            },
        )

    return router

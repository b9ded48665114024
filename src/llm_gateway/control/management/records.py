"""Endpoints of single usage records: search them, and find one by its id."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Path, Query
from starlette.requests import Request

from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.management.calendar_period import read_moment, read_zone
from llm_gateway.control.management.cursor import open_cursor, seal
from llm_gateway.control.management.fields import iso
from llm_gateway.control.management.freshness import UpToDate
from llm_gateway.control.management.own_usage import OwnUsage
from llm_gateway.control.management.record_schemas import RecordList, RecordOut, RecordQuery, shown_record
from llm_gateway.control.management.router import Router
from llm_gateway.domain.usage import NANOS_PER_USD, UsageRecord
from llm_gateway.errors import Invalid, NotFound
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.record_filter import RecordFilter
from llm_gateway.store.record_search import RecordSearch
from llm_gateway.store.report_dimensions import REPORT_DIMENSIONS

_POSITION = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}(-[0-9a-f-]{0,30})?")
_AHEAD_MS = 86_400_000

RecordId = Annotated[
    str,
    Path(
        max_length=128,
        description="the gateway's id of the request, or the client's (x-request-id): then the newest request with it",
    ),
]


def records_router(search: RecordSearch, up_to_date: UpToDate, own: OwnUsage, budgets: BudgetStore) -> Router:
    """Build the endpoints of records."""
    router = Router("/api/v1/usage/records", "usage")

    def shown(records: list[UsageRecord]) -> list[RecordOut]:
        names_any = any(
            record.refused_by is not None or any(attempt.accounts for attempt in record.attempts) for record in records
        )
        by_accounts = {each.budget.id: each for each in budgets.list()} if names_any else {}
        return [shown_record(record, by_accounts) for record in records]

    @router.get("", responses=problems(422))
    def usage_records(request: Request, query: Annotated[RecordQuery, Query()]) -> RecordList:
        given = query.model_dump(exclude={"cursor", "limit"})
        position = None if query.cursor is None else open_cursor(query.cursor, given)
        if position is not None and not _POSITION.fullmatch(position):
            raise Invalid("cursor is not one that this API returned: leave it out.", loc=("query", "cursor"))
        values = own.filters(request, _values(query))
        wanted = _wanted(query, values, up_to_date())
        page = search.page(wanted, query.limit, position)
        return RecordList(
            records=shown(page.records),
            next_cursor=None if page.position is None else seal(given, page.position),
            scanned_until=None if page.scanned_until_ms is None else iso(page.scanned_until_ms),
        )

    @router.get("/{record_id}", responses=problems(404, 422))
    def usage_record(request: Request, record_id: RecordId) -> RecordOut:
        up_to_date()
        found = next(filter(None, (search.find(record_id, values) for values in own.alternatives(request))), None)
        if found is None:
            raise NotFound(
                "No usage record has this id: it may be too old (LLM_GATEWAY_USAGE_RETENTION_DAYS), or the request was "
                "refused before it had one."
            )
        return shown([found])[0]

    return router


def _values(query: RecordQuery) -> dict[str, str]:
    values = {each.name: getattr(query, each.parameter) for each in REPORT_DIMENSIONS}
    return {name: value for name, value in values.items() if value is not None}


def _wanted(query: RecordQuery, values: dict[str, str], now_ms: int) -> RecordFilter:
    zone = read_zone(query.tz)
    start_ms = 0 if query.start is None else read_moment(query.start, zone, "from")
    end_ms = now_ms + _AHEAD_MS if query.end is None else read_moment(query.end, zone, "to")
    if start_ms >= end_ms:
        raise Invalid("from must be before to, which is no part of the period.", loc=("query", "from"))
    name, is_pair, value = (query.tag or "").partition("=")
    cost = query.min_cost_usd
    return RecordFilter(
        start_ms=start_ms,
        end_ms=end_ms,
        values=values,
        client_request_id=query.client_request_id,
        outcome=query.outcome,
        error_code=query.error_code,
        tag=(name, value if is_pair else None) if name else None,
        cost_status=query.cost_status,
        min_cost_nanos=None if cost is None else round(cost * NANOS_PER_USD),
        min_latency_ms=query.min_latency_ms,
    )

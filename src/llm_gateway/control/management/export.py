"""Export of usage as CSV: a line for each request, or for each charge in the columns of FOCUS 1.2.

FOCUS is the FinOps Open Cost and Usage Specification (https://focus.finops.org/focus-specification/v1-2/).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Query
from fastapi.responses import StreamingResponse
from pydantic import Field
from starlette.requests import Request

from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.management.breakdown import CSV, csv_response
from llm_gateway.control.management.calendar_period import read_period
from llm_gateway.control.management.fields import iso
from llm_gateway.control.management.freshness import UpToDate
from llm_gateway.control.management.own_usage import OwnUsage
from llm_gateway.control.management.report_schemas import ReportQuery, csv_text, money
from llm_gateway.control.management.router import Router
from llm_gateway.domain.usage import AttemptRecord, Usage, UsageRecord
from llm_gateway.store.record_search import RecordSearch


class ExportQuery(ReportQuery):
    """Parameters of an export: the period, and filters. Model and provider are those that a request ended with."""

    format: Annotated[
        Literal["csv", "focus"], Field(description="csv: a line for each request; focus: one for each charge")
    ] = "csv"


def export_router(search: RecordSearch, up_to_date: UpToDate, own: OwnUsage) -> Router:
    """Build the endpoint of the export. Lines are sent while records are read, so memory stays bounded."""
    router = Router("/api/v1/usage", "usage")

    @router.get("/export", responses=problems(422) | CSV, response_class=StreamingResponse)
    def usage_export(request: Request, query: Annotated[ExportQuery, Query()]) -> StreamingResponse:
        period = read_period(query.start, query.end, query.tz, up_to_date())
        records = search.in_order(period.start_ms, period.end_ms, own.filters(request, query.filters()))
        if query.format == "focus":
            return csv_response("usage-focus.csv", list(FOCUS), _charges(records))
        return csv_response("usage.csv", list(REQUEST), (_cells(REQUEST, record) for record in records))

    return router


Charge = tuple[UsageRecord, AttemptRecord]


def _charges(records: Iterator[UsageRecord]) -> Iterator[list[str]]:
    for record in records:
        for attempt in record.attempts:
            if attempt.cost_nanos or attempt.usage.input_tokens or attempt.usage.output_tokens:
                yield _cells(FOCUS, (record, attempt))


def _cells(columns: dict[str, Callable[[Any], Any]], row: Any) -> list[str]:
    found = (value(row) for value in columns.values())
    return ["" if each is None else csv_text(each) if isinstance(each, str) else str(each) for each in found]


def _month(at_ms: int, months: int = 0) -> str:
    """Return the first moment of the month (UTC) that a moment lies in, or of a later one."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    number = at.year * 12 + at.month - 1 + months
    return f"{number // 12:04d}-{number % 12 + 1:02d}-01T00:00:00Z"


def _tags(record: UsageRecord) -> str:
    own = {"service": record.service, "task_type": record.task_type, "customer": record.user_id}
    more = {"team": record.team_id, "session": record.session, "agent": record.agent}
    return json.dumps(record.tags | own | {name: value for name, value in more.items() if value}, ensure_ascii=False)


def _tokens(charge: Charge) -> str:
    """Return the quantity of a charge. FOCUS quantities are decimals; readers of CSV take `7` for an integer."""
    usage = charge[1].usage
    return f"{usage.input_tokens + usage.output_tokens}.0"


def _of_record(name: str) -> Callable[[UsageRecord], Any]:
    return lambda record: getattr(record, name)


def _of_usage(name: str) -> Callable[[UsageRecord], int]:
    return lambda record: getattr(record.usage, name)


REQUEST: dict[str, Callable[[UsageRecord], Any]] = {
    "id": _of_record("id"),
    "at": lambda record: iso(record.at_ms),
    "client_request_id": _of_record("client_request_id"),
    "key": _of_record("key"),
    "key_name": _of_record("key_name"),
    "team": _of_record("team_id"),
    **{name: _of_record(name) for name in ("user_id", "service", "task_type", "session", "agent")},
    "tags": lambda record: json.dumps(record.tags, ensure_ascii=False) if record.tags else None,
    **{name: _of_record(name) for name in ("surface", "requested_model", "route", "outcome", "status", "error_code")},
    **{name: _of_record(name) for name in ("provider", "model", "cache")},
    **{name: _of_usage(name) for name in Usage.__struct_fields__},
    "cost_usd": lambda record: money(record.cost_nanos),
    "cost_status": _of_record("cost_status"),
    "saved_cost_usd": lambda record: money(record.saved_cost_nanos),
    **{name: _of_record(name) for name in ("queued_ms", "first_token_ms", "latency_ms")},
    "attempts": lambda record: len(record.attempts),
}
"""Columns of the export of requests."""


def _cost(charge: Charge) -> str:
    return money(charge[1].cost_nanos)


FOCUS: dict[str, Callable[[Charge], Any]] = {
    "BilledCost": _cost,
    "BillingAccountId": lambda charge: charge[1].provider_id,
    "BillingAccountName": lambda charge: charge[1].provider,
    "BillingCurrency": lambda _: "USD",
    "BillingPeriodEnd": lambda charge: _month(charge[0].at_ms, 1),
    "BillingPeriodStart": lambda charge: _month(charge[0].at_ms),
    "ChargeCategory": lambda _: "Usage",
    "ChargeClass": lambda _: None,
    "ChargeDescription": lambda charge: f"{charge[1].model} at {charge[1].provider} ({charge[1].cost_status} cost)",
    "ChargeFrequency": lambda _: "Usage-Based",
    "ChargePeriodEnd": lambda charge: iso(charge[1].started_ms + max(charge[1].latency_ms, 1)),
    "ChargePeriodStart": lambda charge: iso(charge[1].started_ms),
    "ConsumedQuantity": _tokens,
    "ConsumedUnit": lambda _: "Tokens",
    "ContractedCost": _cost,
    "EffectiveCost": _cost,
    "InvoiceId": lambda _: None,
    "InvoiceIssuerName": lambda charge: charge[1].provider,
    "ListCost": _cost,
    "PricingQuantity": _tokens,
    "PricingUnit": lambda _: "Tokens",
    "ProviderName": lambda charge: charge[1].provider,
    "PublisherName": lambda charge: charge[1].provider,
    "ResourceId": lambda charge: charge[1].id,
    "ServiceCategory": lambda _: "AI and Machine Learning",
    "ServiceName": lambda charge: charge[1].kind,
    "ServiceSubcategory": lambda _: "Generative AI",
    "SkuId": lambda charge: charge[1].upstream_model or charge[1].model,
    "SubAccountId": lambda charge: charge[0].key,
    "SubAccountName": lambda charge: charge[0].key_name,
    "Tags": lambda charge: _tags(charge[0]),
    "x_RequestId": lambda charge: charge[0].id,
    "x_CostStatus": lambda charge: charge[1].cost_status,
}
"""Columns of FOCUS 1.2. The gateway knows no discounts, so all costs are the list price's."""

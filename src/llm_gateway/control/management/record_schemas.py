"""Schemas of usage records in the management API: parameters of a search, and a record as it is returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from llm_gateway.control.management.fields import Timestamp, iso
from llm_gateway.control.management.usage import digits
from llm_gateway.domain.report_dimensions import DIMENSIONS
from llm_gateway.domain.stored_budget import StoredBudget
from llm_gateway.domain.usage import NANOS_PER_USD, AttemptRecord, CostStatus, Outcome, Price, Usage, UsageRecord
from llm_gateway.store.budget_charges import charges_of_record

Value = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]
PER_MILLION = "USD per million tokens, by kind of token. A list has a price for each size of input."

Digits = BeforeValidator(digits)


if TYPE_CHECKING:

    class DimensionFilters(BaseModel):
        """Filters by each dimension of the reports, all of which must match."""

else:
    DimensionFilters = create_model(
        "DimensionFilters",
        **{each.filter: (Annotated[Value | None, Field(description=each.about or None)], None) for each in DIMENSIONS},
    )


class RecordQuery(DimensionFilters):
    """Parameters of a search for records; all given ones must match."""

    model_config = ConfigDict(populate_by_name=True)

    start: Annotated[
        str | None,
        Field(alias="from", max_length=40, description="a date, or a date and time; the first moment of the period"),
    ] = None
    end: Annotated[str | None, Field(alias="to", max_length=40, description="the end of the period, no part of it")] = (
        None
    )
    tz: Annotated[str, Field(max_length=64, description="time zone of dates without an offset")] = "UTC"
    model: Annotated[Value | None, Field(description="model that answered or was tried last")] = None
    provider: Annotated[Value | None, Field(description="provider that answered or was tried last")] = None
    client_request_id: Annotated[
        str | None, Field(pattern=r"^[!-~]{1,128}$", description="x-request-id of the client, for all with the same")
    ] = None
    outcome: Annotated[
        Literal[Outcome, "error"] | None, Field(description="error: all that reports count as errors")
    ] = None
    error_code: Value | None = None
    tag: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9_.-]{1,64}(=[^\x00]{0,64})?$",
            description="a tag's name, or name=value as in x-tags",
        ),
    ] = None
    cost_status: Annotated[CostStatus | None, Field(description="how sure the cost is")] = None
    min_cost_usd: Annotated[float | None, Field(ge=0, le=1_000_000, allow_inf_nan=False)] = None
    min_latency_ms: Annotated[int | None, Field(ge=0), Digits] = None
    cursor: Annotated[str | None, Field(max_length=512, description="`next_cursor` of the page before")] = None
    limit: Annotated[int, Field(ge=1, le=500, description="maximum number of records"), Digits] = 50


class Tokens(BaseModel):
    """Token counts by kind. The kinds beside `input` and `output` are parts of these."""

    input: int
    output: int
    cache_read: int
    cache_write: int
    cache_write_1h: int
    reasoning: int
    audio_input: int
    audio_output: int


class AttemptOut(BaseModel):
    """One call of a provider. `why` is null for the first choice, else `kind:cause`, such as `failover:503`."""

    id: str
    provider: str
    model: str
    upstream_model: str | None
    upstream_request_id: str | None
    why: str | None
    started_at: Timestamp
    latency_ms: int
    sent: bool
    status: int | None
    error: str | None
    finish_reason: str | None
    tokens: Tokens
    tokens_estimated: bool
    service_tier: str | None
    units: dict[str, int] | None
    price: Annotated[dict[str, Any] | None, Field(description=PER_MILLION)]
    cost_usd: float
    cost_status: str


class NamedBudget(BaseModel):
    """A budget. `name` is null if its accounts of then are not counted any more."""

    budget_id: str
    name: str | None


class BudgetCharge(NamedBudget):
    """Charge of a request to an account of a budget."""

    value: str
    period_start: Timestamp
    cost_usd: float
    tokens: int


class SavedByCache(BaseModel):
    """Tokens and cost of a cached answer when it was bought."""

    input_tokens: int
    output_tokens: int
    cost_usd: float


class RecordOut(BaseModel):
    """A request: who sent it, what it was answered with, and each call of a provider. Never prompts or answers."""

    id: str
    client_request_id: str | None
    traceparent: Annotated[str | None, Field(description="the client's trace context (W3C Trace Context)")]
    at: Timestamp
    key: str
    key_name: Annotated[str, Field(description="the key's name when the request came")]
    team: str | None
    user_id: str
    service: str
    task_type: str
    session: str | None
    agent: str | None
    tags: dict[str, str]
    surface: str
    stream: bool
    requested_model: str | None
    route: Annotated[str | None, Field(description="how the first choice was made: priority, only, model or override")]
    override_id: str | None
    outcome: str
    status: int
    error_code: str | None
    refused_by: Annotated[NamedBudget | None, Field(description="the budget that refused it")]
    provider: str | None
    model: str | None
    cache: str
    saved: SavedByCache
    tokens: Tokens
    cost_usd: float
    cost_status: str
    queued_ms: int
    first_token_ms: int | None
    latency_ms: int
    budgets: Annotated[list[BudgetCharge], Field(description="the accounts of budgets that it was charged to")]
    attempts: list[AttemptOut]


class RecordList(BaseModel):
    """A page of records, newest first.

    `next_cursor` is null after the last page. `scanned_until` is set if the search ended early: the page has all
    matching records since then.
    """

    records: list[RecordOut]
    next_cursor: str | None
    scanned_until: Timestamp | None


def shown_record(record: UsageRecord, budgets: Mapping[str, StoredBudget]) -> RecordOut:
    """Return a record as the API shows it; `budgets` are by the ids of their accounts."""
    same = {name: getattr(record, name) for name in _SAME}
    refused_by = None if record.refused_by is None else _named(record.refused_by, budgets)
    return RecordOut(
        **same,
        refused_by=refused_by,
        at=iso(record.at_ms),
        key=record.key,
        team=record.team_id,
        saved=SavedByCache(
            input_tokens=record.saved_input_tokens,
            output_tokens=record.saved_output_tokens,
            cost_usd=record.saved_cost_nanos / NANOS_PER_USD,
        ),
        tokens=_tokens(record.usage),
        cost_usd=record.cost_nanos / NANOS_PER_USD,
        budgets=[
            BudgetCharge(
                **dict(_named(account.budget_id, budgets)),
                value=account.value,
                period_start=iso(account.period_start_ms),
                cost_usd=charge.nanos / NANOS_PER_USD,
                tokens=charge.tokens,
            )
            for account, charge in charges_of_record(record).items()
        ],
        attempts=list(map(_attempt, record.attempts)),
    )


def _named(accounts_id: str, budgets: Mapping[str, StoredBudget]) -> NamedBudget:
    """Return id and name of the budget that has these accounts; of one that is gone, the id of the accounts."""
    found = budgets.get(accounts_id)
    return (
        NamedBudget(budget_id=accounts_id, name=None)
        if found is None
        else NamedBudget(budget_id=found.id, name=found.budget.name)
    )


def shown_price(price: Price | None) -> dict[str, Any] | None:
    """Return a price in USD per million tokens by kind; a kind with tiers is a list."""
    if price is None:
        return None
    found: dict[str, Any] = {}
    for kind in Price.__struct_fields__:
        tiers = [
            {"from_input_tokens": start, "usd_per_million": nanos / NANOS_PER_USD}
            for start, nanos in getattr(price, kind)
        ]
        if tiers:
            found[kind] = tiers[0]["usd_per_million"] if len(tiers) == 1 else tiers
    return found


def _tokens(usage: Usage) -> Tokens:
    return Tokens(**{name.removesuffix("_tokens"): getattr(usage, name) for name in Usage.__struct_fields__})


def _attempt(attempt: AttemptRecord) -> AttemptOut:
    same = {name: getattr(attempt, name) for name in _SAME_OF_ATTEMPTS}
    return AttemptOut(
        **same,
        started_at=iso(attempt.started_ms),
        tokens=_tokens(attempt.usage),
        tokens_estimated=attempt.usage_estimated,
        price=shown_price(attempt.price),
        cost_usd=attempt.cost_nanos / NANOS_PER_USD,
    )


_SAME = tuple(
    name
    for name in RecordOut.model_fields
    if name in UsageRecord.__struct_fields__ and name not in ("attempts", "refused_by")
)
_SAME_OF_ATTEMPTS = tuple(
    name for name in AttemptOut.model_fields if name in AttemptRecord.__struct_fields__ and name != "price"
)

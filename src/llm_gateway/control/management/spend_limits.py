"""Endpoints of spend limits in the shape of Anthropic's Admin API, for tools that know it. Each limit is a budget.

Source of the shape: https://platform.claude.com/docs/en/manage-claude/spend-limits-api (amounts in cents, scopes and
periods; a limit is identified by its scope and period).

    scope                          budget
    {"type": "organization"}       match {}, per user_id: the limit of each customer
    {"type": "user", "user_id"}    match {"user_id": …}, one account
"""

from __future__ import annotations

import uuid
from decimal import Decimal
from hashlib import sha256
from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.live_configuration import LiveConfiguration
from llm_gateway.control.management.budget_fields import changed_budget, new_budget
from llm_gateway.control.management.fields import Label, iso
from llm_gateway.control.management.router import Router
from llm_gateway.domain.budget import Budget, PeriodName
from llm_gateway.domain.model_aliases import is_glob
from llm_gateway.domain.stored_budget import StoredBudget
from llm_gateway.errors import Conflict, Invalid, NotFound
from llm_gateway.protocols.registry import MANAGEMENT_PREFIXES
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.identifiers import missing
from llm_gateway.store.unchanged import tried_again

NANOS_PER_CENT = 10_000_000
PERIODS: dict[str, PeriodName] = {"daily": "day", "weekly": "week", "monthly": "month"}
NAME_OF_PERIOD = {period: name for name, period in PERIODS.items()}
USUAL_ANCHOR = {"day": 0, "week": 1, "month": 1}
PREFIX = "spl_"
MOST_CHARACTERS = 100
"""Characters of a budget's name."""


class Scope(BaseModel):
    """Scope of a limit: each customer, or one."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["organization", "user"]
    user_id: Label | None = None


class SpendLimitBody(BaseModel):
    """A limit to set: cents as text."""

    model_config = ConfigDict(extra="forbid")

    scope: Scope
    amount: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,10}$", description="cents")]
    period: Literal["daily", "weekly", "monthly"] = "monthly"


class ScopeOfLimit(BaseModel):
    """Scope of a limit that is set; `user_id` is absent if it is that of each customer."""

    type: Literal["organization", "user"]
    user_id: str = ""


class SpendLimit(BaseModel):
    """A limit that is set: cents as text."""

    type: Literal["spend_limit"]
    id: str
    created_at: str
    updated_at: str
    scope: ScopeOfLimit
    amount: Annotated[str, Field(description="cents")]
    currency: Literal["USD"]
    period: Literal["daily", "weekly", "monthly"]


class SpendLimitPage(BaseModel):
    """A page of the limits."""

    data: list[SpendLimit]
    next_page: Annotated[str | None, Field(description="for `page`; null on the last page")]


class DeletedSpendLimit(BaseModel):
    """The answer to the deletion of a limit."""

    type: Literal["spend_limit_deleted"]
    id: str


SpendLimitId = Annotated[str, Path(description="`spl_` and the id of its budget")]


def spend_limits_router(store: BudgetStore, config: LiveConfiguration) -> Router:
    """Build the endpoints."""
    router = Router(MANAGEMENT_PREFIXES[0], tag="budgets")

    @router.get("", responses=problems(404), response_model=SpendLimitPage, response_model_exclude_unset=True)
    def list_spend_limits(
        limit: Annotated[int, Query(ge=1, le=1000)] = 20, page: Annotated[str | None, Query(max_length=64)] = None
    ) -> dict[str, Any]:
        """List the budgets that are spend limits in the shape of Anthropic's Admin API."""
        found = [each for each in store.list(after="" if page is None else _id(page)) if _scope(each.budget)]
        next_page = f"{PREFIX}{uuid.UUID(found[limit - 1].id).hex}" if len(found) > limit else None
        return {"data": [_shown(each) for each in found[:limit]], "next_page": next_page}

    @router.post("", responses=problems(404, 409), response_model=SpendLimit, response_model_exclude_unset=True)
    def set_spend_limit(body: SpendLimitBody) -> dict[str, Any]:
        """Make the limit of a scope and period, or replace its amount."""
        if (body.scope.type == "user") != (body.scope.user_id is not None):
            raise Invalid("scope.user_id is required for the scope user, and for no other.", loc=("body", "scope"))
        if body.scope.user_id is not None and is_glob(body.scope.user_id):
            raise Invalid("scope.user_id must name one customer, without a *.", loc=("body", "scope", "user_id"))
        # Others may make, change or delete the limit after it was looked for.
        stored = tried_again(lambda: _set(store, body), (Conflict, NotFound))
        config.reload()
        return _shown(stored)

    @router.get(
        "/{spend_limit_id}", responses=problems(404), response_model=SpendLimit, response_model_exclude_unset=True
    )
    def get_spend_limit(spend_limit_id: SpendLimitId) -> dict[str, Any]:
        """Return one limit."""
        return _shown(_find(store, spend_limit_id))

    @router.delete("/{spend_limit_id}", responses=problems(404, 409), response_model=DeletedSpendLimit)
    def delete_spend_limit(spend_limit_id: SpendLimitId) -> dict[str, Any]:
        """Delete a limit, and the budget that it is."""

        def delete() -> StoredBudget:
            stored = _find(store, spend_limit_id)
            store.delete(stored.id, unchanged_since_ms=stored.updated_at_ms)
            return stored

        stored = tried_again(delete)
        config.reload()
        return {"type": "spend_limit_deleted", "id": _shown(stored)["id"]}

    return router


def _set(store: BudgetStore, body: SpendLimitBody) -> StoredBudget:
    """Make the limit, or replace its amount.

    Raises:
        Conflict: somebody has made or changed it meanwhile.
        NotFound: somebody has deleted it meanwhile.
    """
    wanted = body.scope.model_dump(exclude_none=True)
    fields: dict[str, Any] = {"limit_usd": int(body.amount) * NANOS_PER_CENT}
    for each in store.list():
        if _scope(each.budget) == wanted and NAME_OF_PERIOD[each.budget.period] == body.period:
            since_ms = each.updated_at_ms
            return store.update(each.id, lambda before: changed_budget(before, fields), unchanged_since_ms=since_ms)
    return store.create(new_budget(fields | _fields(body)))


def _fields(body: SpendLimitBody) -> dict[str, Any]:
    customer = body.scope.user_id
    of_scope: dict[str, Any] = {"per": "user_id"} if customer is None else {"match": {"user_id": customer}}
    return {"name": _name(body.period, customer), "period": PERIODS[body.period], **of_scope}


def _name(period: str, customer: str | None) -> str:
    """Return a name that no other limit has, however long the customer's is."""
    start = f"spend limit, {period}, "
    if customer is None:
        return f"{start}each customer"
    name = f"{start}{customer!r}"
    if len(name) <= MOST_CHARACTERS:
        return name
    end = f"… {sha256(customer.encode()).hexdigest()[:16]}"
    return f"{name[: MOST_CHARACTERS - len(end)]}{end}"


def _scope(budget: Budget) -> dict[str, Any] | None:
    """Return the scope of a budget, None if the vendor's API has no such limit."""
    is_usual = (budget.unit, budget.timezone, budget.mode, budget.carry) == ("usd", "UTC", "hard", 0)
    if not is_usual or USUAL_ANCHOR.get(budget.period) != budget.anchor:
        return None
    if not budget.match and budget.per == "user_id":
        return {"type": "organization"}
    if budget.match.keys() == {"user_id"} and not is_glob(budget.match["user_id"]) and budget.per in (None, "user_id"):
        return {"type": "user", "user_id": budget.match["user_id"]}
    return None


def _find(store: BudgetStore, spend_limit_id: str) -> StoredBudget:
    stored = store.get(_id(spend_limit_id))
    if _scope(stored.budget) is None:
        raise missing("spend limit")
    return stored


def _id(text: str) -> str:
    """Return the id of the budget of a limit.

    Raises:
        NotFound: it is no id of a limit.
    """
    try:
        return str(uuid.UUID(hex=text.removeprefix(PREFIX)))
    except ValueError:
        raise missing("spend limit") from None


def _shown(stored: StoredBudget) -> dict[str, Any]:
    cents = Decimal(stored.budget.limit) / NANOS_PER_CENT
    return {
        "type": "spend_limit",
        "id": f"{PREFIX}{uuid.UUID(stored.id).hex}",
        "created_at": iso(stored.created_at_ms),
        "updated_at": iso(stored.updated_at_ms),
        "scope": _scope(stored.budget),
        "amount": format(cents.normalize(), "f"),
        "currency": "USD",
        "period": NAME_OF_PERIOD[stored.budget.period],
    }

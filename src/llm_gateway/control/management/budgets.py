"""Endpoints that create, list, get, patch and delete budgets, set another limit for a while, and list accounts."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

import msgspec
from fastapi import Query
from fastapi.responses import Response

from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.live_configuration import LiveConfiguration
from llm_gateway.control.management.budget_fields import (
    changed_budget,
    new_budget,
    overridden,
    shown_amount,
    shown_budget,
)
from llm_gateway.control.management.budget_match import MatchCheck
from llm_gateway.control.management.budget_schemas import (
    AccountOut,
    AccountPage,
    BudgetCreate,
    BudgetMade,
    BudgetOut,
    BudgetPage,
    BudgetPatch,
    LeaseOut,
    OverrideBody,
)
from llm_gateway.control.management.cursor import open_cursor, seal
from llm_gateway.control.management.fields import Label, Reference, Text, iso
from llm_gateway.control.management.freshness import UpToDate
from llm_gateway.control.management.router import Router
from llm_gateway.domain.budget import AccountRef, Budget
from llm_gateway.domain.budget_period import FAR_MS
from llm_gateway.domain.stored_budget import StoredBudget
from llm_gateway.domain.usage import NANOS_PER_USD
from llm_gateway.errors import Invalid
from llm_gateway.store.budget_spend import BudgetSpend, Spending
from llm_gateway.store.budgets import BudgetStore

Limit = Annotated[int, Query(ge=1, le=1000, description="rows of a page")]
Cursor = Annotated[Reference | None, Query(description="`next_cursor` of the page before")]
Name = Annotated[Text | None, Query(description="only the budget with this name")]
Sealed = Annotated[str | None, Query(max_length=2048, description="`next_cursor` of the page before")]
Value = Annotated[Label | None, Query(description="only the account with this value")]
Names = Callable[[str, Collection[str]], dict[str, str]]
"""Return the names of keys (or teams) by their ids; the first argument is `key` or `team`."""
NAMED = ("key", "team")
Leases = Callable[[Budget, Collection[AccountRef]], Mapping[AccountRef, Mapping[str, int]]]
"""Return what each host may still use of a budget's accounts."""
Held = Callable[[Collection[AccountRef]], Mapping[AccountRef, int]]
"""Return what is held in accounts for requests in flight."""
_POSITION = re.compile(r"(?s)(\d{1,19}) (.*)")


def budgets_router(store: BudgetStore, config: LiveConfiguration, check: MatchCheck) -> Router:
    """Build the endpoints of budgets. A change is in force before its response is sent."""
    router = Router("/api/v1/budgets", "budgets")

    def made(stored: StoredBudget) -> BudgetMade:
        config.reload()
        return BudgetMade(**dict(shown_budget(stored)), warnings=check.warnings(stored.budget.match))

    def resolved(fields: dict[str, Any]) -> dict[str, Any]:
        return fields | {"match": check.resolved(fields["match"])} if "match" in fields else fields

    @router.get("", responses=problems(422))
    def list_budgets(limit: Limit = 100, cursor: Cursor = None, name: Name = None) -> BudgetPage:
        found = store.list(name=name, after=(cursor or "").lower(), limit=limit + 1)
        next_cursor = found[limit - 1].id if len(found) > limit else None
        return BudgetPage(budgets=list(map(shown_budget, found[:limit])), next_cursor=next_cursor)

    @router.post("", status_code=201, responses=problems(409, 422))
    def create_budget(body: BudgetCreate) -> BudgetMade:
        """Make a budget. Stored requests of the current period that match are added to it soon."""
        return made(store.create(new_budget(resolved(body.model_dump(exclude_unset=True)))))

    @router.get("/{budget_id}", responses=problems(404))
    def get_budget(budget_id: str) -> BudgetOut:
        return shown_budget(store.get(budget_id))

    @router.patch("/{budget_id}", responses=problems(404, 409, 422))
    def patch_budget(budget_id: str, body: BudgetPatch) -> BudgetMade:
        """Change a budget. If it counts something else then, its accounts begin anew."""
        fields = resolved(body.model_dump(exclude_unset=True))
        if not fields:
            stored = store.get(budget_id)
            return BudgetMade(**dict(shown_budget(stored)), warnings=check.warnings(stored.budget.match))
        return made(store.update(budget_id, lambda before: changed_budget(before, fields)))

    @router.delete("/{budget_id}", status_code=204, response_class=Response, responses=problems(404))
    def delete_budget(budget_id: str) -> None:
        store.delete(budget_id)
        config.reload()

    return router


def budget_override_router(store: BudgetStore, config: LiveConfiguration, now_ms: Callable[[], int]) -> Router:
    """Build the endpoints that set another limit until a moment, and end it."""
    router = Router("/api/v1/budgets/{budget_id}/override", "budgets")

    @router.put("", responses=problems(404, 422))
    def override_budget(budget_id: str, body: OverrideBody) -> BudgetOut:
        """Set another limit for all accounts of the budget until a moment."""
        fields = body.model_dump(exclude_unset=True)
        stored = store.update(budget_id, lambda before: overridden(before, fields, now_ms()))
        config.reload()
        return shown_budget(stored)

    @router.delete("", status_code=204, response_class=Response, responses=problems(404))
    def end_override(budget_id: str) -> None:
        """End the other limit at once, if there is one."""
        store.update(budget_id, _without_override)
        config.reload()

    return router


def accounts_router(
    store: BudgetStore, spend: BudgetSpend, names: Names, up_to_date: UpToDate, leases: Leases, held: Held
) -> Router:
    """Build the endpoint of accounts. `leases` returns what each host may still use of them, `held` what is held."""
    router = Router("/api/v1/budgets/{budget_id}/accounts", "budgets")

    @router.get("", responses=problems(404, 422))
    def list_accounts(budget_id: str, limit: Limit = 100, cursor: Sealed = None, value: Value = None) -> AccountPage:
        """Return what was spent in the current period, the accounts that spent most first."""
        stored, now_ms = store.get(budget_id), up_to_date()
        budget, period = stored.budget, stored.period(now_ms)
        query = {"budget": budget.id, "period": period.start_ms, "value": value}
        found = spend.page(stored, now_ms, limit + 1, _position(cursor, query), value)
        last = found[limit - 1] if len(found) > limit else None
        refs = {each.value: AccountRef(budget.id, each.value, period.start_ms) for each in found[:limit]}
        by_host, in_flight = leases(budget, refs.values()), held(refs.values())
        named = names(budget.per, [each.value for each in found]) if budget.per in NAMED else {}
        return AccountPage(
            unit=budget.unit,
            period=budget.period,
            period_start=iso(period.start_ms),
            resets_at=None if period.end_ms >= FAR_MS else iso(period.end_ms),
            counts_from=iso(max(stored.counts_from_ms, period.start_ms)),
            accounts=[
                shown_account(
                    budget,
                    each,
                    named.get(each.value),
                    by_host.get(refs[each.value], {}),
                    in_flight.get(refs[each.value], 0),
                )
                for each in found[:limit]
            ],
            next_cursor=None if last is None else seal(query, f"{last.balance.of(budget.unit)} {last.value}"),
        )

    return router


def shown_account(
    budget: Budget, account: Spending, name: str | None, leases: Mapping[str, int], held: int
) -> AccountOut:
    """Return an account as the API shows it."""
    spent = account.balance.of(budget.unit)
    return AccountOut(
        value=account.value,
        name=name,
        spent=shown_amount(spent, budget.unit),
        limit=shown_amount(account.limit, budget.unit),
        remaining=shown_amount(max(0, account.limit - spent), budget.unit),
        held=shown_amount(held, budget.unit),
        spent_usd=account.balance.nanos / NANOS_PER_USD,
        spent_tokens=account.balance.tokens,
        spent_requests=account.balance.requests,
        notified=account.notified,
        leased=[LeaseOut(host=host, amount=shown_amount(amount, budget.unit)) for host, amount in leases.items()],
    )


def _position(cursor: str | None, query: dict[str, object]) -> tuple[int, str] | None:
    """Return amount and value of the last account of the page before.

    Raises:
        Invalid: the cursor is not one of this list.
    """
    if cursor is None:
        return None
    found = _POSITION.fullmatch(open_cursor(cursor, query))
    if found is None or "\x00" in found[2]:
        raise Invalid("cursor is not one that this API returned: leave it out.", loc=("query", "cursor"))
    return int(found[1]), found[2]


def _without_override(before: Budget) -> Budget:
    return msgspec.structs.replace(before, override_limit=None, override_until_ms=0)

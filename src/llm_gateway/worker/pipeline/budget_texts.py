"""Texts about budgets for clients: the sentence of a refusal, and the headers of an answer."""

from __future__ import annotations

import re
from typing import NamedTuple

from llm_gateway.domain.budget import AccountRef, Budget, Unit
from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.usage import NANOS_PER_USD, AttemptRecord
from llm_gateway.error_format.responses import shown
from llm_gateway.errors import BudgetExceeded, BudgetReserved, BudgetStatus, Overloaded, RequestNotAllowed
from llm_gateway.worker.pipeline.budget_account import Account

FIRST_RETRY_S, LAST_RETRY_S = 1.0, 5.0
"""Bounds of the random time after which requests in flight may have left enough for another one."""
MOST_CHARACTERS = 100
"""Characters of a budget's name, and of an account's value, that are shown."""
_NO_TOKEN = re.compile(r"[^A-Za-z0-9._-]+")


class Amounts(NamedTuple):
    """Limit of an account in its period, what it has spent, and what is held in it, in its budget's unit."""

    limit: int
    spent: int
    held: int


def amount_text(amount: int, unit: Unit | str) -> str:
    """Return an amount as people read it: dollars with two decimals, less than that with six, and with nine if tiny."""
    if unit != "usd":
        return str(amount)
    decimals = 2 if amount >= NANOS_PER_USD or not amount else 6 if amount >= NANOS_PER_USD // 10**6 else 9
    return f"{amount / NANOS_PER_USD:.{decimals}f}"


def refusal(
    account: Account, amounts: Amounts, needed: int, *, retry_after_s: float | None
) -> BudgetExceeded | BudgetReserved:
    """Return the error for a request that needs more than its account has left.

    `retry_after_s`: the seconds after which requests in flight may have left enough; None if they cannot.
    """
    budget, resets_at = account.rule.budget, account.resets_at
    status = BudgetStatus(
        name=shown(budget.name, MOST_CHARACTERS),
        scope=_scope(budget, account.ref),
        unit=budget.unit,
        limit=amounts.limit,
        spent=amounts.spent,
        held=amounts.held,
        resets_at=resets_at,
        resets_s=None if resets_at is None else account.end_ms // 1000,
        id=account.ref.budget_id,
    )
    unit = "USD" if budget.unit == "usd" else budget.unit
    spent, limit = amount_text(amounts.spent, budget.unit), amount_text(amounts.limit, budget.unit)
    resets = "it does not reset" if resets_at is None else f"it resets {resets_at}"
    of_account = f" for {status.scope}" if budget.per is not None else ""
    name = f"Budget '{status.name}'{of_account}"
    error: BudgetExceeded | BudgetReserved
    if retry_after_s is not None:
        held = amount_text(amounts.held, budget.unit)
        error = BudgetReserved(
            f"{name} has {spent} of {limit} {unit} spent, and requests in flight hold {held}: try again in a moment.",
            retry_after_s=retry_after_s,
        )
    elif amounts.spent >= amounts.limit:
        error = BudgetExceeded(f"{name} is used up: {spent} of {limit} {unit}; {resets}.")
    else:
        error = BudgetExceeded(
            f"{name} has too little left: {spent} of {limit} {unit} are spent, and this request can take "
            f"{amount_text(needed, budget.unit)}. Lower its limit of output tokens or shorten it; {resets}."
        )
    error.budget = status
    return error


def _scope(budget: Budget, ref: AccountRef) -> str:
    return "all" if budget.per is None else f"{budget.per} {shown(ref.value, MOST_CHARACTERS)!r}"


def budget_header(account: Account, left: int) -> tuple[bytes, bytes]:
    """Return the header that tells the client of a success what is left of its budget."""
    budget = account.rule.budget
    if not account.shown_name:
        account.shown_name = header_name(budget)
    value = f"{account.shown_name}; remaining={amount_text(left, budget.unit)}; resets={account.resets_at or 'never'}"
    return b"x-gateway-budget", value.encode()


def warning_header(account: Account, limit: int, taken: int) -> tuple[bytes, bytes]:
    """Return the header that tells the client of a success that a `soft` budget is exceeded."""
    budget = account.rule.budget
    spent, most = amount_text(taken, budget.unit), amount_text(limit, budget.unit)
    return b"x-gateway-budget-warning", f"{header_name(budget)}; spent={spent}; limit={most}".encode()


def header_name(budget: Budget) -> str:
    """Return a budget's name as a header can carry it, or its id."""
    return _NO_TOKEN.sub("-", budget.name).strip("-")[:MOST_CHARACTERS] or budget.id


def unpriced(budget: Budget, attempt: AttemptRecord) -> RequestNotAllowed:
    """Return the error for a call whose cost a budget of dollars cannot count."""
    return RequestNotAllowed(
        f"Budget '{budget.name}' is in dollars, and the price of {attempt.provider}/{attempt.model} is not known: "
        "give the provider prices, or set the budget's unpriced to allow."
    )


def without_bound(budget: Budget, candidate: Candidate) -> RequestNotAllowed:
    """Return the error for a call whose input nothing bounds, of a budget that must never be passed."""
    return RequestNotAllowed(
        f"Budget '{budget.name}' holds the most that a request can cost, which is not known for a file, a video or "
        f"audio while the context window of {candidate.provider.name}/{candidate.model} is not: give the provider its "
        "context_window, or leave the file out."
    )


def billed_apart(budget: Budget, tool: str) -> RequestNotAllowed:
    """Return the error for a call with a tool that the provider runs, and bills by what it did."""
    return RequestNotAllowed(
        f"Budget '{budget.name}' holds the most that a request can cost, and what the provider's own tool "
        f"'{shown(tool, MOST_CHARACTERS)}' costs is only known afterwards: leave it out, or set the budget's unpriced "
        "to allow."
    )


def without_memory() -> Overloaded:
    """Return the error for a request of a `hard` budget without any memory of accounts."""
    return Overloaded(
        "Budgets need memory that the gateway's processes share, which the system refused at the start, or which an "
        "earlier version of the gateway made: restart the gateway."
    )


def without_room() -> Overloaded:
    """Return the error for a request whose account has no place in the memory."""
    return Overloaded(
        "The memory of the budgets' accounts has no room for another one: send the request again, or make a budget "
        "with fewer accounts.",
        retry_after_s=LAST_RETRY_S,
    )


def locked() -> Overloaded:
    """Return the error for a request whose accounts cannot be read or changed."""
    return Overloaded(
        "The budgets' accounts are locked by another process of the gateway, which does not run: send the request "
        "again.",
        retry_after_s=1.0,
    )

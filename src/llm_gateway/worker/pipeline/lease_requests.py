"""Leases of budgets' accounts as a worker sees them: it asks control if that of its host is too small."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from random import uniform
from typing import NamedTuple, TypeAlias

from llm_gateway.domain.budget import AccountRef
from llm_gateway.domain.lease_answer import LeaseAnswer
from llm_gateway.error_format.responses import shown
from llm_gateway.errors import BudgetUnavailable, GatewayError
from llm_gateway.worker.pipeline.budget_account import Account
from llm_gateway.worker.pipeline.budget_texts import (
    FIRST_RETRY_S,
    LAST_RETRY_S,
    MOST_CHARACTERS,
    Amounts,
    refusal,
)

AskControl: TypeAlias = Callable[[AccountRef, int], Awaitable[LeaseAnswer]]
BELIEVED_S = 0.5
"""Seconds for which an account is not asked about again that has nothing left, or about which nothing is known."""
MOST_BELIEVED = 4_096
UNKNOWN = LeaseAnswer("unavailable", text="the gateway's management process is not there")


class Lack(NamedTuple):
    """An account whose lease is too small for a request, and what the request needs of it."""

    account: Account
    need: int


class LeaseRequests:
    """Asks control for more of accounts by `ask`; without it nothing more can be had."""

    def __init__(
        self,
        ask: AskControl | None,
        clock: Callable[[], float] = time.monotonic,
        retry_after: Callable[[float, float], float] = uniform,
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._retry_after = retry_after
        self._believed: dict[AccountRef, tuple[float, int, LeaseAnswer]] = {}

    def known(self, lack: Lack) -> GatewayError | None:
        """Return why a request is refused, if that is known from a moment ago."""
        until, need, answer = self._believed.get(lack.account.ref, (0.0, 0, UNKNOWN))
        return self._error(lack, answer) if lack.need >= need and self._clock() < until else None

    async def more(self, lack: Lack) -> GatewayError | None:
        """Ask for more. Returns why a request is refused; None if it may try again."""
        answer = UNKNOWN if self._ask is None else await self._ask(lack.account.ref, lack.need)
        if answer.state == "granted":
            return None
        if len(self._believed) >= MOST_BELIEVED:
            self._believed.clear()
        self._believed[lack.account.ref] = self._clock() + BELIEVED_S, lack.need, answer
        return self._error(lack, answer)

    def _error(self, lack: Lack, answer: LeaseAnswer) -> GatewayError:
        account, need = lack
        if answer.state == "unavailable":
            return unavailable(account, answer.text)
        is_used_up = answer.spent + need > answer.limit
        retry_after_s = None if is_used_up else self._retry_after(FIRST_RETRY_S, LAST_RETRY_S)
        amounts = Amounts(answer.limit, answer.spent, answer.held)
        return refusal(account, amounts, need, retry_after_s=retry_after_s)


def unavailable(account: Account, why: str) -> BudgetUnavailable:
    """Return the error for a request of which nobody can say now whether its budget has room for it."""
    name = shown(account.rule.budget.name, MOST_CHARACTERS)
    return BudgetUnavailable(
        f"Budget {name!r} has no room on this host at the moment, and {why}: send the request again in a second."
    )

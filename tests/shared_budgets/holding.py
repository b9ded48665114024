"""Amounts as tests hold them: a row for each account."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from llm_gateway.host_memory.account_group import AccountGroup, AccountPlace, Full
from llm_gateway.host_memory.budget_accounts import BudgetAccounts

Wanted: TypeAlias = tuple[AccountPlace, int, int, int, int]
"""An account, what is held, by how much the request can cost more than that, the limit, and the overdraft."""


def _group(wanted: Sequence[Wanted]) -> tuple[AccountGroup, list[int], list[int]]:
    group = AccountGroup([row[0] for row in wanted], [row[3] for row in wanted], [row[4] for row in wanted])
    return group, [row[1] for row in wanted], [row[2] for row in wanted]


def hold(accounts: BudgetAccounts, wanted: Sequence[Wanted]) -> Full | bool:
    """Hold all of these amounts, or none."""
    return accounts.hold(*_group(wanted))


def settle(accounts: BudgetAccounts, wanted: Sequence[Wanted], spent: Sequence[int]) -> None:
    """Release amounts, and count what was spent."""
    accounts.settle(*_group(wanted), spent)

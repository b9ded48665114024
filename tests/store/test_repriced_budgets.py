"""Repricing changes what the accounts of budgets have spent."""

from __future__ import annotations

from llm_gateway.domain.budget import AccountRef, Budget
from llm_gateway.domain.usage import cost
from llm_gateway.store.budget_tables import budget_spend
from llm_gateway.store.budget_verification import verify
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.database import Database
from llm_gateway.store.usage import UsageStore
from tests.store.histories import NOW_MS
from tests.store.test_repricing import NOW, TOKENS, Run, bought, made


def test_accounts_of_budgets_follow_new_prices(database: Database) -> None:
    stored = BudgetStore(database, clock_ms=lambda: NOW_MS).create(Budget(id="", name="core", limit=1))
    account = AccountRef(stored.budget.id, "", stored.period(NOW_MS).start_ms)
    UsageStore(database).write([made(bought(accounts=[account])), made(bought(accounts=[AccountRef("gone", "", 0)]))])
    with database.write() as connection:
        connection.execute(budget_spend.delete().where(budget_spend.c.budget_id == "gone"))
    Run(database, {"p": NOW})()
    [found] = verify(database, NOW_MS, 90)
    assert (found.spent.nanos, found.is_wrong) == (cost(NOW, TOKENS), False)
    with database.read() as connection:
        assert len(connection.execute(budget_spend.select()).all()) == 1

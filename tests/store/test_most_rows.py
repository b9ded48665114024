"""Tables with a maximum of rows: two that are made at the same time do not exceed it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from llm_gateway.domain.alert_target import AlertSecret, AlertTarget
from llm_gateway.domain.budget import Budget
from llm_gateway.errors import Conflict, StoreUnavailable
from llm_gateway.store.alert_targets import MOST_TARGETS, AlertTargetStore
from llm_gateway.store.budget_tables import budgets
from llm_gateway.store.budgets import MOST_BUDGETS, BudgetStore
from llm_gateway.store.database import Database
from llm_gateway.store.one_transaction import OneTransaction
from llm_gateway.store.secrets import SecretBox
from llm_gateway.store.tables import alert_targets


def make_target(store: Any, name: str) -> None:
    fields: dict[str, Any] = {"events": ("*",), "is_enabled": True, "host": "h", "mailbox": None, "has_secret": False}
    target = AlertTarget(id="", name=name, kind="slack", created_at_ms=0, updated_at_ms=0, **fields)
    store.create(target, AlertSecret(url="https://h"))


def make_budget(store: Any, name: str) -> None:
    store.create(Budget(id="", name=name, limit=1))


@pytest.mark.parametrize(
    ("table", "most", "make"), [(alert_targets, MOST_TARGETS, make_target), (budgets, MOST_BUDGETS, make_budget)]
)
def test_two_that_make_the_last_row_at_the_same_time_do_not_exceed_the_maximum(
    database: Database, box: SecretBox, table: sa.Table, most: int, make: Callable[[Any, str], None]
) -> None:
    store: Any = AlertTargetStore(database, box) if table is alert_targets else BudgetStore(database)
    make(store, "0")
    with database.write() as connection:
        row = connection.execute(sa.select(table)).one()._mapping
        copies = [{**row, "id": f"{row['id']}{number}", "name": f"{number}"} for number in range(1, most - 1)]
        connection.execute(sa.insert(table), copies)
    with database.write() as connection:
        make(store.within(OneTransaction(connection)), "last")
        with pytest.raises(StoreUnavailable):  # it waits for the transaction, and not for ever
            make(store, "one too many")
    with pytest.raises(Conflict, match=f"There are {most} .*, which is the most"):
        make(store, "one too many")

"""The tables of budgets, as SQLAlchemy describes them; `tables.py` has all."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, Boolean, Column, Text

from llm_gateway.domain.budget import Balance
from llm_gateway.store.table_base import SORTED_BY_BYTES, metadata

# Settings are those of `domain/budget.py`. Accounts have an id of their own, which changes with what they count.
budgets = sa.Table(
    "budgets",
    metadata,
    Column("id", SORTED_BY_BYTES, primary_key=True),
    Column("name", SORTED_BY_BYTES, nullable=False),
    Column("accounts_id", SORTED_BY_BYTES, nullable=False, comment="budget_id of its accounts"),
    Column("per", Text),
    Column("settings", Text, nullable=False, comment="JSON object"),
    Column("defined_at_ms", BigInteger, nullable=False),
    Column("counted_from_ms", BigInteger, comment="null: older records are not added yet"),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    sa.UniqueConstraint("name", name="budgets_name"),
)

# What was spent in a period, and in `budget_backfill` the part of it from records older than the budget.
# `notified` is the highest part of the limit that the webhook got a message for, in units of 1/10,000.
# `uncounted_nanos` is the part of `nanos` that repricing added, and that the memory of a host does not count yet.
budget_spend = sa.Table(
    "budget_spend",
    metadata,
    Column("budget_id", SORTED_BY_BYTES, primary_key=True),
    Column("value", SORTED_BY_BYTES, primary_key=True),
    Column("period_start_ms", BigInteger, primary_key=True, autoincrement=False),
    *(Column(amount, BigInteger, nullable=False) for amount in Balance._fields),
    Column("notified", BigInteger, nullable=False, server_default=sa.text("0")),
    Column("uncounted_nanos", BigInteger, nullable=False, server_default=sa.text("0")),
    sqlite_with_rowid=False,
)
sa.Index("budget_spend_period", budget_spend.c.budget_id, budget_spend.c.period_start_ms)
sa.Index(
    "budget_spend_uncounted",
    budget_spend.c.budget_id,
    postgresql_where=budget_spend.c.uncounted_nanos != 0,
    sqlite_where=budget_spend.c.uncounted_nanos != 0,
)
budget_backfill = sa.Table(
    "budget_backfill",
    metadata,
    Column("budget_id", SORTED_BY_BYTES, primary_key=True),
    Column("value", SORTED_BY_BYTES, primary_key=True),
    Column("period_start_ms", BigInteger, primary_key=True, autoincrement=False),
    *(Column(amount, BigInteger, nullable=False) for amount in Balance._fields),
    sqlite_with_rowid=False,
)

# What hosts on one database may use of budgets (`lease_ledger.py`). `account` is the digest of an account of one
# period; amounts are in its budget's unit.
# `budget_id` is that of the account; null: only its digest was known. By it, leases end with their budget.
# `asked` counts the requests of other hosts for what the host does not hold, `answered` the last time it has answered.
budget_leases = sa.Table(
    "budget_leases",
    metadata,
    Column("account", SORTED_BY_BYTES, primary_key=True),
    Column("host", SORTED_BY_BYTES, primary_key=True),
    Column("granted", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("asked", BigInteger, nullable=False),
    Column("answered", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("budget_id", SORTED_BY_BYTES),
)
sa.Index(
    "budget_leases_asked",
    budget_leases.c.host,
    postgresql_where=budget_leases.c.asked != budget_leases.c.answered,
    sqlite_where=budget_leases.c.asked != budget_leases.c.answered,
)
# Hosts that use budgets. One that is alone may use whole limits, and no other host uses any of them.
budget_hosts = sa.Table(
    "budget_hosts",
    metadata,
    Column("host", SORTED_BY_BYTES, primary_key=True),
    Column("is_alone", Boolean, nullable=False),
)

"""Stored budgets, what shipped records were charged to their accounts, and what is left of it later."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given as for_any
from hypothesis import strategies as st
from msgspec.structs import replace

from llm_gateway.domain.budget import AccountRef, Balance, Budget
from llm_gateway.domain.stored_budget import StoredBudget
from llm_gateway.domain.usage import Usage, UsageRecord
from llm_gateway.errors import Conflict, NotFound, RecordsRefused
from llm_gateway.store.budget_backfill import BudgetBackfill
from llm_gateway.store.budget_charges import NOTHING
from llm_gateway.store.budget_spend import BudgetSpend, PeriodSpending, SpendTable
from llm_gateway.store.budget_tables import budget_backfill, budget_spend
from llm_gateway.store.budget_verification import verify
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.database import Database
from llm_gateway.store.erasure import Erasure
from llm_gateway.store.record_search import RecordSearch
from llm_gateway.store.usage import UsageStore
from tests.store.effort import few, many
from tests.store.histories import DAY_MS, NOW_MS, attempt, clear, close, record

MONTH_MS = 1_727_740_800_000
"""Start of the month (UTC) that contains NOW_MS."""
YEAR_MS = 365 * DAY_MS


def charged(*accounts: AccountRef, nanos: int = 7, tokens: int = 3) -> Any:
    return attempt(cost_nanos=nanos, usage=Usage(input_tokens=tokens - 1, output_tokens=1), accounts=list(accounts))


def made(database: Database, name: str = "core", now_ms: int = NOW_MS, **fields: Any) -> StoredBudget:
    budget = Budget(id="", name=name, **{"limit": 100, **fields})
    return BudgetStore(database, clock_ms=lambda: now_ms).create(budget)


def account(stored: StoredBudget, value: str = "", start_ms: int = MONTH_MS) -> AccountRef:
    return AccountRef(stored.budget.id, value, start_ms)


def stored_records(database: Database, *records: UsageRecord) -> None:
    for each in records:
        close(each)
    UsageStore(database).write(records)


def spent(database: Database) -> dict[AccountRef, Balance]:
    with database.read() as connection:
        rows = connection.execute(sa.select(budget_spend)).all()
    return {AccountRef(*row[:3]): Balance(*row[3:6]) for row in rows}


names = st.sampled_from(["a", "b"])
refs = st.builds(AccountRef, names, st.sampled_from(["", "u", "x"]), st.sampled_from([0, MONTH_MS]))
attempts = st.builds(
    lambda nanos, tokens, accounts: charged(*accounts, nanos=nanos, tokens=tokens),
    st.integers(0, 9),
    st.integers(1, 9),
    st.lists(refs, max_size=3, unique=True),
)
batches = st.lists(st.builds(lambda tried: record(attempts=tried), st.lists(attempts, max_size=3)), max_size=6)


def check_that_each_charge_counts_once(database: Database, batch: list[UsageRecord], cut: int) -> None:
    clear(database)
    with database.write() as connection:
        connection.execute(sa.delete(budget_spend))
    expected: defaultdict[AccountRef, list[int]] = defaultdict(lambda: [0, 0, 0])
    for each in batch:
        close(each)
        for one in each.attempts:
            for ref in one.accounts:
                expected[ref][0] += one.cost_nanos
                expected[ref][1] += one.usage.input_tokens + one.usage.output_tokens
        for ref in {ref for one in each.attempts for ref in one.accounts}:
            expected[ref][2] += 1
    store = UsageStore(database)
    for part in (batch[:cut], batch, batch):
        store.write(part)
    assert spent(database) == {ref: Balance(*sums) for ref, sums in expected.items()}


@many
@for_any(batch=batches, cut=st.integers(0, 6))
def test_each_charge_counts_once_however_often_it_is_sent(
    shared_sqlite: Database, batch: list[UsageRecord], cut: int
) -> None:
    check_that_each_charge_counts_once(shared_sqlite, batch, cut)


@few
@for_any(batch=batches, cut=st.integers(0, 6))
def test_each_charge_counts_once_on_postgres(shared_postgres: Database, batch: list[UsageRecord], cut: int) -> None:
    check_that_each_charge_counts_once(shared_postgres, batch, cut)


def test_charges_that_cannot_be_summed_are_refused(sqlite_database: Database) -> None:
    one = charged(AccountRef("b", "", 0))
    one.cost_nanos = 2**60
    with pytest.raises(RecordsRefused, match="too large"):
        UsageStore(sqlite_database).write([record(attempts=[one])])
    assert spent(sqlite_database) == {}


def test_a_change_of_what_a_budget_counts_begins_new_accounts(database: Database) -> None:
    store, stored = BudgetStore(database), made(database, per="user_id")
    stored_records(database, record(attempts=[charged(account(stored, "u"))]))
    raised = store.update(stored.id, lambda budget: replace(budget, limit=200, name="more"))
    assert (raised.budget.id, raised.budget.limit, raised.counts_from_ms) == (stored.id, 200, NOW_MS)
    assert list(spent(database)) == [account(stored, "u")]
    changed = store.update(stored.id, lambda budget: replace(budget, match={"model": "m*"}))
    assert changed.id == stored.id != changed.budget.id
    assert changed.counts_from_ms == changed.defined_at_ms > NOW_MS
    assert spent(database) == {}
    assert store.get(stored.id) == changed
    assert store.in_force() == (changed.budget,)


def test_names_are_unique_and_a_deleted_budget_takes_its_accounts_along(database: Database) -> None:
    store, stored, other = BudgetStore(database), made(database), made(database, "other")
    with pytest.raises(Conflict, match="'core' exists"):
        made(database)
    with pytest.raises(Conflict, match="'core' exists"):
        store.update(other.id, lambda budget: replace(budget, name="core"))
    stored_records(database, record(attempts=[charged(account(stored), account(other))]))
    store.delete(stored.id)
    assert list(spent(database)) == [account(other)]
    with pytest.raises(NotFound):
        store.get(stored.id)
    [page] = [store.list(name="other", limit=1)]
    assert page == [other]


def test_balances_are_those_of_the_current_period_and_what_is_left_is_carried_over(database: Database) -> None:
    monthly = made(database, now_ms=MONTH_MS - 1, per="user_id", carry=0.5, unit="tokens")
    total = made(database, "total", period="total")
    before_ms = monthly.period(MONTH_MS - 1).start_ms
    now, past = account(monthly, "u"), account(monthly, "u", before_ms)
    stored_records(
        database,
        record(attempts=[charged(now, account(total, start_ms=0)), charged(now)]),
        record(attempts=[charged(past, tokens=60)]),
        record(attempts=[charged(account(monthly, "v", before_ms), tokens=160)]),
    )
    spend = BudgetSpend(database)
    assert dict(spend.balances(NOW_MS)) == {
        now: Balance(14, 6, 1),
        account(total, start_ms=0): Balance(7, 3, 1),
    }
    assert dict(spend.carried_over(NOW_MS)) == {now: 20, account(monthly, "v"): 0}
    [own] = spend.page(monthly, NOW_MS, 10)
    assert (own.value, own.balance.tokens, own.limit) == ("u", 6, 120)
    assert [each.limit for each in spend.page(monthly, NOW_MS, 10, value="new")] == [150]
    assert spend.page(monthly, before_ms, 1)[0].value == "v"
    past_sum = PeriodSpending(before_ms, 2, Balance(14, 220, 2), 160)
    assert spend.periods(monthly, NOW_MS, 10) == [PeriodSpending(MONTH_MS, 1, Balance(14, 6, 1), 6), past_sum]
    assert spend.periods(monthly, MONTH_MS - 1, 10) == [past_sum]
    assert [each.most for each in spend.periods(monthly, NOW_MS, 1, "u")] == [6]
    assert spend.periods(monthly, NOW_MS, 10, "nobody") == []


def test_old_periods_and_accounts_of_deleted_budgets_are_pruned(database: Database) -> None:
    stored = made(database)
    period = stored.period(MONTH_MS - 1)
    kept = [account(stored), account(stored, start_ms=period.start_ms)]
    old = account(stored, start_ms=stored.period(period.start_ms - 1).start_ms)
    stored_records(database, record(attempts=[charged(*kept, old, AccountRef("gone", "", 0))]))
    spend = BudgetSpend(database)
    assert spend.prune(NOW_MS, NOW_MS) == 2
    assert set(spent(database)) == set(kept)
    assert spend.prune(NOW_MS, NOW_MS + YEAR_MS) == 2


def test_rows_that_a_shipper_holds_are_pruned_later_without_waiting_for_it(postgres_database: Database) -> None:
    stored = made(postgres_database)
    refs = [account(stored, start_ms=0), AccountRef("gone", "", 0), AccountRef("gone", "", 1)]
    stored_records(postgres_database, record(attempts=[charged(*refs)]))
    spend, shipped = BudgetSpend(postgres_database), Balance(1, 1, 1)
    with postgres_database.write() as connection:
        SpendTable(postgres_database).add(connection, dict.fromkeys(refs[:2], shipped))
        assert spend.prune(NOW_MS, NOW_MS + YEAR_MS) == 1
    assert set(spent(postgres_database)) == set(refs[:2])
    assert spend.prune(NOW_MS, NOW_MS + YEAR_MS) == 2


def test_an_erased_customer_is_erased_in_accounts_too(database: Database) -> None:
    by_customer, by_service = made(database, per="user_id"), made(database, "s", per="service")
    refs = [account(by_customer, "ann"), account(by_service, "ann")]
    with database.write() as connection:
        connection.execute(sa.insert(budget_backfill).values(**refs[0]._asdict(), nanos=1, tokens=1, requests=1))
    one = record(user_id="ann", attempts=[charged(*refs)])
    stored_records(database, one)
    erased = Erasure(database, sleep=lambda _: None).run("ann", NOW_MS + DAY_MS)
    assert erased is not None
    renamed = [account(by_customer, erased.label), refs[1]]
    assert set(spent(database)) == set(renamed)
    found = RecordSearch(database).find(one.id)
    assert found is not None
    assert found.attempts[0].accounts == renamed
    with database.read() as connection:
        assert connection.execute(sa.select(budget_backfill.c.value)).scalars().all() == [erased.label]
    with database.write() as connection:  # a run was cut off before it came to the accounts
        connection.execute(sa.update(budget_spend).where(budget_spend.c.value == erased.label).values(value="ann"))
    again = Erasure(database, sleep=lambda _: None).run("ann", NOW_MS + DAY_MS)
    assert again is not None
    assert set(spent(database)) == {account(by_customer, again.label), refs[1]}


def test_older_requests_are_added_once_with_the_day_since_which_they_count(database: Database) -> None:
    older = [
        record(MONTH_MS + 5, user_id="ann", tags={"x": "1"}, attempts=[charged(), charged()]),
        record(MONTH_MS + 9, user_id="bob", attempts=[charged(), attempt(model="other", cost_nanos=99)]),
        record(MONTH_MS - 5, user_id="ann", attempts=[charged(tokens=50)]),
    ]
    stored_records(database, *older)
    stored = made(database, match={"model": "m*", "user_id": "*"}, per="user_id")
    named = record(user_id="ann", attempts=[charged(account(stored, "ann"))])
    stored_records(database, named)
    backfill = BudgetBackfill(database, lambda: NOW_MS)
    done = backfill.step()
    assert done is not None
    assert done.charges == {account(stored, "ann"): Balance(14, 6, 1), account(stored, "bob"): Balance(7, 3, 1)}
    assert backfill.step() is None
    assert spent(database)[account(stored, "ann")] == Balance(21, 9, 2)
    store = BudgetStore(database)
    assert store.get(stored.id).counts_from_ms == MONTH_MS
    changed = store.update(stored.id, lambda budget: replace(budget, carry=0.5, match={"tag:x": "1"}, per=None))
    assert changed.counted_from_ms is None
    again = backfill.step()
    assert again is not None
    assert again.charges == {account(changed): Balance(14, 6, 1)}
    assert spent(database) == again.charges
    assert [each.drift for each in verify(database, NOW_MS, 90)] == [NOTHING]


def test_accounts_that_begin_anew_get_nothing_from_the_period_before_as_workers_hold_it(
    sqlite_database: Database,
) -> None:
    stored = made(sqlite_database, now_ms=MONTH_MS - 1, limit=100, carry=0.5)
    [own] = BudgetSpend(sqlite_database).page(stored, NOW_MS, 1)
    assert own.limit == 150
    store = BudgetStore(sqlite_database, clock_ms=lambda: NOW_MS)
    changed = store.update(stored.id, lambda budget: replace(budget, match={"model": "m"}))
    [anew] = BudgetSpend(sqlite_database).page(changed, NOW_MS, 1)
    assert anew.limit == 100


def test_a_budget_with_too_many_accounts_counts_from_its_making(sqlite_database: Database) -> None:
    stored_records(sqlite_database, *(record(NOW_MS - 9, user_id=name, attempts=[charged()]) for name in "abc"))
    stored = made(sqlite_database, per="user_id")
    done = BudgetBackfill(sqlite_database, lambda: NOW_MS, most_accounts=2).step()
    assert done is not None
    assert not done.is_complete
    assert BudgetStore(sqlite_database).get(stored.id).counted_from_ms == stored.defined_at_ms
    assert spent(sqlite_database) == {}


def test_a_verification_finds_every_difference_from_the_records(database: Database) -> None:
    assert verify(database, NOW_MS, 90) == []
    stored = made(database, per="user_id")
    for name in "abc":
        stored_records(database, record(user_id=name, attempts=[charged(account(stored, name))]))
    assert not any(each.is_wrong for each in verify(database, NOW_MS, 90))
    assert [each.drift for each in verify(database, NOW_MS + YEAR_MS, 1)] == [None] * 3
    of = budget_spend.c
    with database.write() as connection:
        connection.execute(sa.update(budget_spend).where(of.value == "a").values(nanos=of.nanos + 1))
        connection.execute(sa.delete(budget_spend).where(of.value == "b"))
    wrong = {each.account.value: each.drift for each in verify(database, NOW_MS, 90) if each.is_wrong}
    assert wrong == {"a": Balance(1, 0, 0), "b": Balance(-7, -3, -1)}

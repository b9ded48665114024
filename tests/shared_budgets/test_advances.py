"""Amounts held ahead of requests: no limit is passed, nothing is lost if the worker is killed, nothing stays held."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from llm_gateway.control.budget_balances import BudgetBalances
from llm_gateway.domain.budget import AccountRef, Budget
from llm_gateway.domain.budget_table import BudgetTable
from llm_gateway.host_memory import HostMemory, create
from llm_gateway.host_memory.account_group import NO_LIMIT, AccountGroup, AccountPlace, Full
from llm_gateway.host_memory.budget_accounts import BudgetAccounts
from llm_gateway.host_memory.budget_holds import recompute_sums
from llm_gateway.host_memory.lock import BUDGETS, HostLock
from llm_gateway.worker.pipeline import budget_advances
from llm_gateway.worker.pipeline.budget_account import Account, Matched, match_of
from llm_gateway.worker.pipeline.budget_advances import PART, REQUESTS_AHEAD, SOON_MS, Advances
from tests.shared_limiter.processes import RecordedStores
from tests.waiting import until

NOW_MS = 1_700_000_000_000
UNTIL_MS = NOW_MS + 10**9
SMALL = PART * REQUESTS_AHEAD
"""Room for as many requests is the least with which something is held ahead."""
LIMITS = (
    Budget(id="dollars", name="dollars", limit=40 * SMALL, overdraft=40 * SMALL, period="total"),
    Budget(id="bound", name="bound", limit=30 * SMALL, hold="bound", period="total"),
    Budget(id="tokens", name="tokens", limit=30 * SMALL, overdraft=30 * SMALL, unit="tokens", period="total"),
    Budget(id="requests", name="requests", limit=2 * SMALL, unit="requests", period="total"),
)


class Worker:
    """A worker: its accounts, the combination of its requests, and what those in flight hold."""

    def __init__(self, memory: HostMemory, name: str) -> None:
        self.name = name
        self.accounts = BudgetAccounts(memory, name, lambda: NOW_MS)
        self.advances = Advances(self.accounts, lambda: NOW_MS)
        self.matched = matched_of(LIMITS)
        self.open: dict[int, tuple[int, int, int, int, int]] = {}


def matched_of(budgets: tuple[Budget, ...]) -> Matched:
    rules = BudgetTable(budgets).rules
    accounts = [Account(rule, AccountRef(rule.budget.id, "", 0), UNTIL_MS) for rule in rules]
    return match_of(tuple(accounts), NOW_MS)


class Host(RuleBasedStateMachine):
    """Up to three workers, whose requests take from advances where they can; `spent` is what they have cost."""

    requests = Bundle("requests")

    @initialize()
    def begin(self) -> None:
        self.descriptor = create()
        self.memory = HostMemory(self.descriptor)
        self.balances = BudgetBalances(self.memory, log=lambda *_, **__: None, clock_ms=lambda: NOW_MS)
        self.balances.load(LIMITS, tuple)
        self.started = self.number = 0
        self.spent = [0, 0, 0]
        self.workers: list[Worker] = []
        self.start()

    @precondition(lambda self: len(self.workers) < 3)
    @rule()
    def start(self) -> None:
        self.started += 1
        self.workers.append(Worker(self.memory, f"worker {self.started}"))

    @rule(target=requests, which=st.integers(0, 2), nanos=st.integers(1, 3 * SMALL), tokens=st.integers(1, 9))
    def hold(self, which: int, nanos: int, tokens: int) -> tuple[Worker, int] | None:
        return self.ask(which, nanos, tokens)

    @rule(target=requests, which=st.integers(0, 2), nanos=st.integers(1, 9), tokens=st.integers(1, 9))
    def hold_little(self, which: int, nanos: int, tokens: int) -> tuple[Worker, int] | None:
        return self.ask(which, nanos, tokens)

    def ask(self, which: int, nanos: int, tokens: int) -> tuple[Worker, int] | None:
        worker = self.workers[which % len(self.workers)]
        advance, needs = worker.matched.advance, (nanos, nanos, tokens, tokens, 1)
        if not advance.take(nanos, tokens):
            if worker.accounts.hold(worker.matched.group, needs) is not True:
                return None
            worker.advances.fill(worker.matched, nanos, tokens)
        self.number += 1
        worker.open[self.number] = needs
        return worker, self.number

    @rule(request=consumes(requests), share=st.floats(0, 1))
    def settle(self, request: tuple[Worker, int] | None, share: float) -> None:
        if request is None or request[0] not in self.workers:
            return
        worker, number = request
        held = worker.open.pop(number)
        nanos, tokens = int(held[0] * share), int(held[2] * share)
        cost = nanos, nanos, tokens, tokens, 1
        if worker.matched.advance.give_back(held[0] - nanos, held[2] - tokens):
            worker.accounts.note_spent(worker.matched.group, cost)
        else:
            worker.accounts.settle(worker.matched.group, held, None, cost)
        self.spent = [self.spent[0] + nanos, self.spent[1] + tokens, self.spent[2] + 1]

    @rule(which=st.integers(0, 2))
    def review(self, which: int) -> None:
        self.workers[which % len(self.workers)].advances.review()

    @rule(which=st.integers(0, 2), account=st.integers(0, 3), missing=st.integers(0, 3 * SMALL))
    def give_way(self, which: int, account: int, missing: int) -> None:
        worker = self.workers[which % len(self.workers)]
        worker.advances.give_way(worker.matched.accounts[account].place, missing)

    @rule(which=st.integers(0, 2))
    def end(self, which: int) -> None:
        self.workers[which % len(self.workers)].advances.close()

    @precondition(lambda self: len(self.workers) > 1)
    @rule(which=st.integers(0, 2))
    def crash(self, which: int) -> None:
        """Kill a worker. What was in flight has cost nothing."""
        self.balances.clear(self.workers.pop(which % len(self.workers)).name)

    @rule()
    def repair(self) -> None:
        """As the first one does that gets the lock of a killed holder."""
        recompute_sums(self.memory.words)

    @invariant()
    def no_limit_is_passed(self) -> None:
        flying = [held for worker in self.workers for held in worker.open.values()]
        most = [self.spent[0] + sum(held[0] for held in flying), self.spent[1] + sum(held[2] for held in flying)]
        most = [most[0], most[0], most[1], self.spent[2] + len(flying)]
        observer = self.workers[0]
        for limit, needed, account in zip(LIMITS, most, observer.matched.accounts, strict=True):
            spent, held, _ = observer.accounts.amounts(account.place)
            assert needed <= limit.limit
            assert spent + held >= needed or not account.place.at

    def teardown(self) -> None:
        for worker in self.workers:
            for number in list(worker.open):
                self.settle((worker, number), 1.0)
            worker.advances.review()
            assert worker.advances.review(), "nothing is open that was not used since the last review"
        looks = Worker(self.memory, "looks")
        assert looks.accounts.hold(looks.matched.group, (0, 0, 0, 0, 0)) is True
        found = [looks.accounts.amounts(account.place) for account in looks.matched.accounts]
        nanos, tokens, requests = self.spent
        assert found == [(spent, 0, 0) for spent in (nanos, nanos, tokens, requests)]
        os.close(self.descriptor)


TestHost = Host.TestCase
TestHost.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)


@pytest.fixture
def memory() -> Iterator[HostMemory]:
    descriptor = create()
    yield HostMemory(descriptor)
    os.close(descriptor)


def observed(memory: HostMemory) -> tuple[int, int, int]:
    """Return what is spent and held, and the gap, as another process sees them in the account `p`."""
    accounts, place = BudgetAccounts(memory, "looks", lambda: NOW_MS), AccountPlace("p", UNTIL_MS)
    assert accounts.hold(AccountGroup([place], [NO_LIMIT], [NO_LIMIT]), [0]) is True
    return accounts.amounts(place)


def spend_ahead(accounts: BudgetAccounts, group: AccountGroup) -> None:
    """Hold 7 ahead, spend 3 of it, and count it."""
    assert accounts.hold_more(group, [7])
    accounts.note_spent(group, [3])
    assert accounts.hold_more(group, [-4])


def prepared(memory: HostMemory, observe: Callable[[Any], Any] | None = None) -> tuple[BudgetAccounts, AccountGroup]:
    accounts = BudgetAccounts(HostMemory(memory.descriptor, observe), "one", lambda: NOW_MS)
    group = AccountGroup([AccountPlace("p", UNTIL_MS)], [NO_LIMIT], [NO_LIMIT])
    assert accounts.hold(group, [10]) is True
    return accounts, group


def test_a_worker_killed_after_any_store_has_counted_what_its_requests_have_spent(memory: HostMemory) -> None:
    recorded = RecordedStores()
    accounts, group = prepared(memory, recorded)
    first = len(recorded.stores)
    spend_ahead(accounts, group)
    assert observed(memory) == (3, 10, 0)
    [noted] = [number for number, (at, value) in enumerate(recorded.stores) if (at, value) == (group.notes[0][1], 3)]
    found = []
    for last in range(first, len(recorded.stores) + 1):
        descriptor = create()
        left = HostMemory(descriptor)
        HostLock(left, BUDGETS)
        for at, value in recorded.stores[:last]:
            left.words[at] = value
        recompute_sums(left.words)
        BudgetBalances(left, log=lambda *_, **__: None, clock_ms=lambda: NOW_MS).clear("one")
        spent, held, _ = observed(left)
        assert held == 0
        found.append((last > noted, spent))
        os.close(descriptor)
    assert set(found) == {(False, 0), (True, 3), (True, 6)}
    assert found.count((True, 6)) == 1, "twice counted only between two stores"


def test_nothing_is_held_ahead_that_does_not_fit_or_while_another_process_has_the_lock(memory: HostMemory) -> None:
    accounts, group = BudgetAccounts(memory, "one", lambda: NOW_MS), AccountGroup(
        [AccountPlace("p", UNTIL_MS), AccountPlace("q", UNTIL_MS)], [20, 100], [0, 0]
    )  # fmt: skip
    assert accounts.hold(group, [10, 10]) is True
    assert not accounts.hold_more(group, [11, 11])
    lock = HostLock(memory, BUDGETS)
    assert lock.acquire()
    assert not accounts.hold_more(group, [1, 1])
    lock.release()
    assert observed(memory) == (0, 10, 0)
    assert accounts.hold_more(group, [10, 11])
    assert [accounts.amounts(place) for place in group.places] == [(0, 20, 0), (0, 21, 0)]


def test_what_is_noted_in_an_account_stays_noted_when_late_amounts_of_it_are_counted(memory: HostMemory) -> None:
    accounts, group = prepared(memory)
    accounts.note_spent(group, [4])
    lock = HostLock(memory, BUDGETS)
    assert lock.acquire()
    accounts.settle(group, [5], None, [2])
    lock.release()
    assert accounts.release_late()
    assert observed(memory) == (2, 5, 0)
    assert accounts.hold_more(group, [0])
    assert observed(memory) == (6, 1, 0)


@pytest.mark.parametrize(
    ("limit", "overdraft", "hold", "is_held"),
    [
        (SMALL, REQUESTS_AHEAD, "expected", True),
        (SMALL - 1, SMALL, "expected", False),
        (SMALL, REQUESTS_AHEAD - 1, "expected", False),
        (SMALL, 0, "bound", True),
    ],
    ids=["enough is left", "too little is left", "too small an overdraft", "bounds need no overdraft"],
)
def test_amounts_are_held_ahead_only_where_other_requests_have_room(
    memory: HostMemory, limit: int, overdraft: int, hold: Any, is_held: bool
) -> None:
    advances = Advances(accounts := BudgetAccounts(memory, "one", lambda: NOW_MS), lambda: NOW_MS)
    matched = matched_of((Budget(id="b", name="b", limit=limit, overdraft=overdraft, hold=hold),))
    assert accounts.hold(matched.group, (0, 0, 0, 0, 0)) is True
    assert advances.fill(matched, 1, 1) == is_held
    assert accounts.amounts(matched.accounts[0].place) == (0, REQUESTS_AHEAD if is_held else 0, 0)
    advances.close()
    assert accounts.amounts(matched.accounts[0].place) == (0, 0, 0)


def test_nothing_is_held_ahead_at_the_end_of_a_period_since_that_would_not_be_carried_over(memory: HostMemory) -> None:
    now_ms = [NOW_MS]
    advances = Advances(accounts := BudgetAccounts(memory, "one", lambda: NOW_MS), lambda: now_ms[0])
    matched = matched_of((Budget(id="b", name="b", limit=2 * SMALL, overdraft=2 * SMALL),))
    assert accounts.hold(matched.group, (0, 0, 0, 0, 0)) is True
    assert advances.fill(matched, 1, 1)
    now_ms[0] = matched.until_ms - SOON_MS + 1
    assert advances.review(), "it is closed"
    assert not advances.fill(matched, 1, 1)
    assert accounts.amounts(matched.accounts[0].place) == (0, 0, 0)
    now_ms[0] = matched.until_ms - SOON_MS
    assert advances.fill(matched, 1, 1)
    advances.close()


def test_a_worker_holds_ahead_for_a_bounded_number_of_combinations(
    memory: HostMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_advances, "MOST_OPEN", 1)
    advances = Advances(accounts := BudgetAccounts(memory, "one", lambda: NOW_MS), lambda: NOW_MS)
    budget = Budget(id="b", name="b", limit=9 * SMALL, hold="bound")
    first, second = matched_of((budget,)), matched_of((budget,))
    for matched in (first, second):
        assert accounts.hold(matched.group, (0, 0, 0, 0, 0)) is True
    assert [advances.fill(matched, 1, 1) for matched in (first, second, first)] == [True, False, True]
    advances.close()
    assert advances.fill(second, 1, 1)
    advances.close()


def test_a_request_that_must_go_alone_waits_for_requests_and_not_for_what_is_held_ahead(memory: HostMemory) -> None:
    advances = Advances(accounts := BudgetAccounts(memory, "one", lambda: NOW_MS), lambda: NOW_MS)
    matched = matched_of((Budget(id="b", name="b", limit=2 * SMALL, overdraft=REQUESTS_AHEAD),))
    place, one = matched.accounts[0].place, (1, 1, 1, 1, 1)
    gap = [REQUESTS_AHEAD + 1, 0, 0, 0, 0]

    def refused() -> Full:
        full = accounts.hold(matched.group, one, gap)
        assert isinstance(full, Full)
        return full

    assert accounts.hold(matched.group, (0, 0, 0, 0, 0)) is True
    assert advances.fill(matched, 1, 1)
    assert matched.advance.take(1, 1)
    assert not advances.give_way(place, refused().missing), "a request is in flight"
    assert matched.advance.is_open
    assert matched.advance.give_back(0, 0)
    accounts.note_spent(matched.group, one)
    assert advances.give_way(place, refused().missing)
    assert accounts.amounts(place) == (1, 0, 0)
    assert accounts.hold(matched.group, one, gap) is True


async def test_what_is_held_ahead_at_the_end_is_released_once_the_accounts_are_free(memory: HostMemory) -> None:
    advances = Advances(accounts := BudgetAccounts(memory, "one", lambda: NOW_MS), lambda: NOW_MS)
    matched = matched_of((Budget(id="b", name="b", limit=2 * SMALL, hold="bound"),))
    assert accounts.hold(matched.group, (0, 0, 0, 0, 0)) is True
    assert advances.fill(matched, 1, 1)
    assert matched.advance.take(1, 1)
    assert matched.advance.give_back(0, 0)
    accounts.note_spent(matched.group, (1, 1, 1, 1, 1))
    lock = HostLock(memory, BUDGETS)
    assert lock.acquire()
    advances.close()
    lock.release()
    await until(lambda: accounts.amounts(matched.accounts[0].place) == (1, 0, 0))

"""Budgets' accounts whose process is killed after any store: the next process repairs them, and nothing is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from llm_gateway.control.budget_balances import BudgetBalances
from llm_gateway.host_memory import HostMemory, create
from llm_gateway.host_memory.account_group import NO_LIMIT, AccountPlace
from llm_gateway.host_memory.budget_accounts import BudgetAccounts
from llm_gateway.host_memory.budget_holds import recompute_sums
from llm_gateway.host_memory.budget_slots import GAP
from llm_gateway.host_memory.lock import BUDGETS, HostLock
from tests.shared_budgets.holding import hold, settle
from tests.shared_limiter.processes import RecordedStores, Stores, end_of, fork

NOW_MS = 1_700_000_000_000
UNTIL_MS = NOW_MS + 3_600_000
MOST_STORES = 200


def now_ms() -> int:
    return NOW_MS


def place(name: str) -> AccountPlace:
    return AccountPlace(name, UNTIL_MS)


class Case(NamedTuple):
    """An operation of the worker `two`, whose own holds are 10 and 5 beyond, and whether it is alone."""

    operate: Callable[[BudgetAccounts, AccountPlace, AccountPlace], object]
    is_alone: bool = False


def hold_two(accounts: BudgetAccounts, p: AccountPlace, q: AccountPlace) -> None:
    assert hold(accounts, [(p, 7, 3, 1000, 1000), (q, 7, 3, 1000, 1000)]) is True


def hold_too_much(accounts: BudgetAccounts, p: AccountPlace, q: AccountPlace) -> None:
    assert hold(accounts, [(p, 7, 3, 1000, 1000), (q, 7, 3, 1, 1000)]) is not True


def settle_one(accounts: BudgetAccounts, p: AccountPlace, _q: AccountPlace) -> None:
    settle(accounts, [(p, 10, 5, 0, 0)], [12])


CASES = {
    "hold, one account being new": Case(hold_two),
    "hold alone": Case(hold_two, is_alone=True),
    "hold that is refused": Case(hold_too_much),
    "settle": Case(settle_one),
    "settle alone": Case(settle_one, is_alone=True),
}


@contextmanager
def prepared(case: Case, observe: Callable[[object], object] | None = None) -> Iterator[HostMemory]:
    """Make a memory in which `one` holds 100 and 50 of `p`, unless `two` is alone, and `two` holds 10 and 5."""
    descriptor = create()
    try:
        memory = HostMemory(descriptor)
        HostLock(memory, BUDGETS)  # whose stores are not repeated
        if not case.is_alone:
            assert hold(BudgetAccounts(memory, "one", now_ms), [(place("p"), 100, 50, NO_LIMIT, NO_LIMIT)]) is True
        yield memory
    finally:
        os.close(descriptor)


def operate(case: Case, memory: HostMemory, begin: Callable[[], None]) -> None:
    """Let `two` hold its first amounts, then call `begin` and carry out the operation."""
    accounts, p = BudgetAccounts(memory, "two", now_ms), place("p")
    assert hold(accounts, [(p, 10, 5, NO_LIMIT, NO_LIMIT)]) is True
    begin()
    case.operate(accounts, p, place("q"))


def amounts(memory: HostMemory, name: str) -> tuple[int, int, int]:
    """Return what is spent and held, and the gap, as another process sees them after its repair."""
    accounts, account = BudgetAccounts(memory, "looks", now_ms), place(name)
    assert hold(accounts, [(account, 0, 0, NO_LIMIT, NO_LIMIT)]) is True
    spent, held, _ = accounts.amounts(account)
    return spent, held, int(memory.words[account.at + GAP])


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_process_killed_after_any_store_leaves_accounts_that_are_repaired(case: Case) -> None:
    """The memory that each kill leaves is made by repeating stores; one real kill leaves the same."""
    with prepared(case) as memory:
        recorded = RecordedStores()
        begun: list[int] = []
        operate(case, HostMemory(memory.descriptor, recorded), lambda: begun.append(len(recorded.stores)))
        before, stores = recorded.stores[: begun[0]], recorded.stores[begun[0] :]
    assert 0 < len(stores) < MOST_STORES, "each store is tried"
    for last in range(len(stores) + 1):
        with prepared(case) as memory:
            for at, value in before + stores[:last]:
                memory.words[at] = value
            recompute_sums(memory.words)
            is_repaired(case, memory)
    middle = (len(before) + len(recorded.stores)) // 2
    with prepared(case) as memory, prepared(case) as repeated:
        pid = fork(lambda: operate(case, HostMemory(memory.descriptor, Stores(middle)), lambda: None))
        assert end_of(pid) == -signal.SIGKILL
        for at, value in recorded.stores[:middle]:
            repeated.words[at] = value
        stored = {at for at, _ in recorded.stores}
        assert {at: memory.words[at] for at in stored} == {at: repeated.words[at] for at in stored}
        is_repaired(case, memory)


def is_repaired(case: Case, memory: HostMemory) -> None:
    others = (0, 0) if case.is_alone else (100, 50)
    spent, held, gap = amounts(memory, "p")
    assert spent in ({0, 12} if case.operate is settle_one else {0})
    assert held - others[0] in {0, 10, 17}
    assert gap - others[1] in {0, 5, 8}
    assert spent or held > others[0], "what was held is released after it is counted"
    assert amounts(memory, "q")[1:] in {(0, 0), (7, 0), (7, 3)}
    BudgetBalances(memory, log=lambda *_, **__: None, clock_ms=now_ms).clear("two")
    assert amounts(memory, "p") == (spent, *others)
    assert amounts(memory, "q") == (0, 0, 0)


@pytest.mark.parametrize("is_killed", [True, False], ids=["and is killed", "and goes on"])
def test_what_a_worker_settles_while_another_one_has_the_lock_is_counted_once(is_killed: bool) -> None:
    with prepared(CASES["settle"]) as memory:
        accounts, p, lock = BudgetAccounts(memory, "two", now_ms), place("p"), HostLock(memory, BUDGETS)
        for cost in (7, 5):
            assert hold(accounts, [(p, 10, 5, NO_LIMIT, NO_LIMIT)]) is True
            assert lock.acquire()
            settle(accounts, [(p, 10, 5, 0, 0)], [cost])
            lock.release()
            assert accounts.amounts(p)[:2] == ((0, 110) if cost == 7 else (7, 110)), "it is not counted yet"
        if not is_killed:
            assert hold(accounts, [(p, 0, 0, NO_LIMIT, NO_LIMIT)]) is True
            assert accounts.amounts(p)[:2] == (12, 100)
        BudgetBalances(memory, log=lambda *_, **__: None, clock_ms=now_ms).clear("two")
        assert amounts(memory, "p") == (12, 100, 50)


def test_a_worker_that_is_stopped_in_a_change_makes_others_refuse() -> None:
    with prepared(CASES["hold alone"]) as memory:

        def body() -> None:
            stores = Stores(0, signal.SIGSTOP)
            observed = HostMemory(memory.descriptor, stores)
            operate(CASES["hold alone"], observed, lambda: setattr(stores, "last", stores.count + 4))

        pid = fork(body)
        assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
        other, account = BudgetAccounts(memory, "three", now_ms), place("p")
        assert hold(other, [(account, 1, 0, NO_LIMIT, NO_LIMIT)]) is False
        os.kill(pid, signal.SIGCONT)
        assert end_of(pid) == 0
        assert hold(other, [(account, 1, 0, NO_LIMIT, NO_LIMIT)]) is True
        assert other.amounts(account) == (0, 18, 0)


def test_four_processes_grant_exactly_what_there_is_room_for() -> None:
    descriptor = create()
    reader, writer = os.pipe()

    def body(number: int) -> None:
        accounts, account = BudgetAccounts(HostMemory(descriptor), f"worker {number}", now_ms), place("p")
        for _ in range(50):
            while (came := hold(accounts, [(account, 3, 2, 30, 100)])) is False:
                pass
            os.write(writer, b"+" if came is True else b"-")

    pids = [fork(lambda number=number: body(number)) for number in range(4)]  # type: ignore[misc]
    assert [end_of(pid) for pid in pids] == [0] * 4
    answers = os.read(reader, 1000)
    assert (answers.count(b"+"), answers.count(b"-")) == (10, 190)
    for each in (descriptor, reader, writer):
        os.close(each)

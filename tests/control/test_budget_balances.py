"""Balances of budgets in the memory that workers share, as the control process writes them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.control.budget_balances import AT_ONCE, BudgetBalances
from llm_gateway.domain.budget import AccountRef, Balance, Budget
from llm_gateway.domain.budget_table import BudgetTable
from llm_gateway.domain.usage import AttemptRecord, Usage, UsageRecord
from llm_gateway.host_memory import HostMemory, create
from llm_gateway.host_memory.account_group import NO_LIMIT, AccountPlace
from llm_gateway.host_memory.budget_accounts import BudgetAccounts
from llm_gateway.host_memory.lock import BUDGETS as BUDGETS_LOCK
from llm_gateway.host_memory.lock import HostLock
from llm_gateway.journal.record_assembler import CRASHED
from llm_gateway.store.budget_spend import Corrections
from tests.shared_budgets.holding import hold, settle
from tests.shared_limiter.processes import end_of, fork

NOW_MS = 1_700_000_000_000
FAR_MS = 2 * NOW_MS
DOLLARS = Budget(id="dollars", name="dollars", limit=1_000)
TOKENS = Budget(id="tokens", name="tokens", limit=1_000, unit="tokens", per="user_id", carry=1.0)
REQUESTS = Budget(id="requests", name="requests", limit=1_000, unit="requests")
BUDGETS = (DOLLARS, TOKENS, REQUESTS)
START_MS = 1_698_796_800_000
REFS = [
    AccountRef("dollars", "", START_MS),
    AccountRef("tokens", "ann", START_MS),
    AccountRef("requests", "", START_MS),
]
RULES = {rule.budget.id: rule for rule in BudgetTable(BUDGETS).rules}


@pytest.fixture
def memory() -> Iterator[HostMemory]:
    descriptor = create()
    yield HostMemory(descriptor)
    os.close(descriptor)


def loaded(memory: HostMemory | None, *balances: tuple[AccountRef, Balance], **more: Any) -> BudgetBalances:
    made = BudgetBalances(memory, log=lambda *_, **__: None, clock_ms=lambda: NOW_MS)
    made.load(BUDGETS, lambda: balances, **more)
    return made


def amounts(memory: HostMemory, *refs: AccountRef) -> list[tuple[int, int, int]]:
    """Return what is spent, held and carried over in accounts."""
    accounts = BudgetAccounts(memory, "looks", lambda: NOW_MS)
    places = [AccountPlace(RULES[ref.budget_id].account_name(ref), FAR_MS) for ref in refs]
    assert hold(accounts, [(place, 0, 0, NO_LIMIT, NO_LIMIT) for place in places]) is True
    return [accounts.amounts(place) for place in places]


@contextmanager
def locked_elsewhere(memory: HostMemory) -> Iterator[None]:
    """Let another thread hold the lock of the accounts, as a stopped process would."""
    is_held, is_over = threading.Event(), threading.Event()

    def keep() -> None:
        lock = HostLock(memory, BUDGETS_LOCK)
        assert lock.acquire()
        is_held.set()
        is_over.wait(10)
        lock.release()

    thread = threading.Thread(target=keep)
    thread.start()
    assert is_held.wait(10)
    yield
    is_over.set()
    thread.join()


def record(error_code: str | None, attempts: int) -> UsageRecord:
    made = [
        AttemptRecord(
            id=f"{number}", provider_id="p", provider="p", kind="openai", model="m", started_ms=0,
            usage=Usage(input_tokens=3, output_tokens=4), cost_nanos=50, accounts=REFS,
        )
        for number in range(attempts)
    ]  # fmt: skip
    labels: dict[str, Any] = {"key_name": "k", "user_id": "u", "service": "s", "task_type": "t", "surface": "generate"}
    return UsageRecord(id="r", at_ms=0, instance="i", error_code=error_code, attempts=made, **labels)


def test_balances_are_copied_in_each_budgets_unit_and_only_where_the_memory_has_none(memory: HostMemory) -> None:
    balance = Balance(700, 80, 9)
    before = loaded(memory, *((ref, balance) for ref in REFS), carried=lambda: [(REFS[1], 33)])
    assert amounts(memory, *REFS) == [(700, 0, 0), (80, 0, 33), (9, 0, 0)]
    again = ((ref, Balance(1, 1, 1)) for ref in REFS)
    new = AccountRef("tokens", "bob", START_MS)
    before.load((*BUDGETS, Budget(id="new", name="new", limit=1)), lambda: [*again, (new, balance)])
    loaded(memory, (REFS[0], Balance(1, 1, 1)))
    assert amounts(memory, *REFS, new) == [(700, 0, 0), (80, 0, 33), (9, 0, 0), (80, 0, 0)]


def test_what_was_carried_over_is_kept_for_accounts_that_have_spent_nothing_yet(memory: HostMemory) -> None:
    loaded(memory, carried=lambda: [(REFS[1], 0)])
    assert amounts(memory, REFS[1]) == [(0, 0, 0)]
    accounts = BudgetAccounts(memory, "worker", lambda: NOW_MS)
    place = AccountPlace(RULES["tokens"].account_name(REFS[1]), FAR_MS, "before", lambda spent: 500 - spent)
    assert hold(accounts, [(place, 11, 0, 10, NO_LIMIT)]) is not True, "nothing was left for it"
    other = AccountPlace("another", FAR_MS, "before", lambda spent: 500 - spent)
    assert hold(accounts, [(other, 510, 0, 10, NO_LIMIT)]) is True
    settle(accounts, [(other, 510, 0, 0, 0)], [100])
    later = AccountPlace("later", FAR_MS, "another", lambda spent: 500 - spent)
    assert hold(accounts, [(other, 50, 0, NO_LIMIT, NO_LIMIT)]) is True
    assert hold(accounts, [(later, 360, 0, 10, NO_LIMIT)]) is True
    assert accounts.amounts(later) == (0, 360, 350), "what is still held is not left for the next period"


def test_what_requests_in_flight_hold_is_told_until_they_are_settled(memory: HostMemory) -> None:
    balances = loaded(memory, (REFS[1], Balance(0, 80, 0)))
    accounts = BudgetAccounts(memory, "worker", lambda: NOW_MS)
    place = AccountPlace(RULES["tokens"].account_name(REFS[1]), FAR_MS)
    assert hold(accounts, [(place, 11, 0, NO_LIMIT, NO_LIMIT)]) is True
    assert balances.held([*REFS, AccountRef("unknown", "", START_MS)])[REFS[1]] == 11
    settle(accounts, [(place, 11, 0, 0, 0)], [5])
    assert balances.held(REFS) == {REFS[1]: 0}
    assert loaded(None).held(REFS) == {}


def test_an_account_gets_what_was_carried_over_once_its_budget_carries_anything(memory: HostMemory) -> None:
    balances = loaded(memory, (REFS[1], Balance(0, 80, 0)))
    balances.load((TOKENS,), lambda: [(REFS[1], Balance(0, 80, 0))], carried=lambda: [(REFS[1], 33)])
    assert amounts(memory, REFS[1]) == [(80, 0, 33)]


def test_requests_that_a_crash_cut_off_are_counted_once_they_are_stored(memory: HostMemory) -> None:
    cold = BudgetBalances(memory, log=lambda *_, **__: None, clock_ms=lambda: NOW_MS)
    stored: list[UsageRecord] = []
    cold.sink(stored.extend)([record(CRASHED, 1)])
    assert amounts(memory, *REFS) == [(0, 0, 0)] * 3, "a cold start copies balances that have them"
    balances = loaded(memory)
    balances.sink(stored.extend)([record(None, 1), record(CRASHED, 2)])
    assert len(stored) == 3
    once = [(100, 0, 0), (14, 0, 0), (1, 0, 0)]
    assert amounts(memory, *REFS) == once
    balances.sink(stored.extend)([record(CRASHED, 2)])
    assert (len(stored), amounts(memory, *REFS)) == (4, once), "the shipper sends it again after a defect elsewhere"
    balances.add([(REFS[0], Balance(1, 1, 1)), (AccountRef("deleted", "", START_MS), Balance(1, 1, 1))])
    assert amounts(memory, REFS[0]) == [(101, 0, 0)]


def test_no_balance_is_copied_while_records_are_stored_and_not_yet_added(memory: HostMemory) -> None:
    """Another budget is made between both: its load must not read what is added a moment later."""
    balances, stored = loaded(memory), Balance(5, 5, 5)
    read: list[bool] = []
    more = (*BUDGETS, Budget(id="new", name="new", limit=1))

    def table() -> list[tuple[AccountRef, Balance]]:
        read.append(is_stored.is_set())
        return [(REFS[0], stored)]

    is_stored, other = threading.Event(), threading.Thread(target=lambda: balances.load(more, table))

    def store() -> bool:
        other.start()
        other.join(0.05)
        assert other.is_alive(), "it waits"
        is_stored.set()
        return True

    assert balances.add_stored(store, [(REFS[0], stored)])
    other.join()
    assert (read, amounts(memory, REFS[0])) == ([True], [(5, 0, 0)])
    assert not balances.add_stored(lambda: False, [(REFS[0], stored)])
    assert amounts(memory, REFS[0]) == [(5, 0, 0)]


def test_a_worker_without_a_journal_holds_nothing_any_more(memory: HostMemory, tmp_path: Path) -> None:
    place = AccountPlace(RULES["dollars"].account_name(REFS[0]), FAR_MS)
    for name in ("gone", "living"):
        assert hold(
            BudgetAccounts(memory, name, lambda: NOW_MS),
            [(AccountPlace(RULES["dollars"].account_name(REFS[0]), FAR_MS), 5, 2, NO_LIMIT, NO_LIMIT)],
        )
    (tmp_path / "living").mkdir()
    loaded(memory).clear_ended(tmp_path)
    accounts = BudgetAccounts(memory, "looks", lambda: NOW_MS)
    assert hold(accounts, [(place, 0, 0, NO_LIMIT, NO_LIMIT)]) is True
    assert accounts.amounts(place) == (0, 5, 0)


def test_without_memory_nothing_is_counted_and_records_are_stored() -> None:
    balances, stored = loaded(None), list[UsageRecord]()
    balances.sink(stored.extend)([record(CRASHED, 1)])
    balances.add([(REFS[0], Balance(1, 1, 1))])
    balances.clear("worker")
    balances.clear_ended(Path("nowhere"))
    assert len(stored) == 1


def test_what_a_stopped_process_kept_from_the_memory_is_added_before_holds_are_released(memory: HostMemory) -> None:
    place = AccountPlace(RULES["dollars"].account_name(REFS[0]), FAR_MS)
    assert hold(BudgetAccounts(memory, "dead", lambda: NOW_MS), [(place, 60, 2, NO_LIMIT, NO_LIMIT)])
    balances = BudgetBalances(memory, log=lambda *_, **__: None, clock_ms=lambda: NOW_MS, patience_s=0.01)
    balances.load(BUDGETS, tuple)
    with locked_elsewhere(memory):
        balances.sink(lambda _: None)([record(CRASHED, 2)])
        balances.clear("dead")
        balances.sink(lambda _: None)([record(CRASHED, 2)])
    assert amounts(memory, REFS[0]) == [(0, 60, 0)], "its bound is held until it is counted"
    assert balances.correct(lambda: Corrections({}, {})) == 0
    assert amounts(memory, *REFS) == [(100, 0, 0), (14, 0, 0), (1, 0, 0)]


def test_ten_thousand_accounts_take_little_memory(memory: HostMemory) -> None:
    refs = [AccountRef("tokens", f"customer {number}", START_MS) for number in range(10_000)]
    before = os.fstat(memory.descriptor).st_blocks
    loaded(memory, *((ref, Balance(1, 1, 1)) for ref in refs))
    assert (os.fstat(memory.descriptor).st_blocks - before) * 512 <= 2 * 1024 * 1024
    assert amounts(memory, refs[0], refs[-1]) == [(1, 0, 0)] * 2


def test_balances_that_a_stopped_process_keeps_from_the_memory_are_logged(memory: HostMemory) -> None:
    lines: list[tuple[str, Any]] = []

    def body() -> None:
        HostLock(memory, BUDGETS_LOCK).acquire()
        os.kill(os.getpid(), signal.SIGSTOP)

    pid = fork(body)
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
    locked = BudgetBalances(memory, log=lambda event, **fields: lines.append((event, fields)), patience_s=0.2)
    refs = [AccountRef("tokens", f"{number}", START_MS) for number in range(20 * AT_ONCE)]
    started = time.monotonic()
    locked.load(BUDGETS, lambda: [(ref, Balance(1, 1, 1)) for ref in refs])
    assert time.monotonic() - started < 20 * 0.2, "it is waited for once, not for each part"
    os.kill(pid, signal.SIGCONT)
    assert end_of(pid) == 0
    [(event, fields)] = lines
    assert event == "balances of budgets are not counted: their memory is full or locked"
    assert fields == {"level": "error", "count": len(refs)}

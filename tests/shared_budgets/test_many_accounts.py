"""Accounts of one request next to thousands of others: none takes the slot or the row of another one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from llm_gateway.host_memory import ACCOUNTS_AT, FIRST_ACCOUNTS, HOLD_ROWS, HostMemory, create
from llm_gateway.host_memory.account_group import NO_LIMIT, AccountGroup, AccountPlace, Full
from llm_gateway.host_memory.budget_accounts import BudgetAccounts
from llm_gateway.host_memory.budget_holds import clear_rows, find_place, recompute_sums
from llm_gateway.host_memory.budget_slots import GAP
from llm_gateway.host_memory.slots import key_of
from tests.shared_budgets.holding import Wanted, hold, settle

NOW_MS = 1_700_000_000_000
FAR_MS = 2 * NOW_MS


@pytest.fixture
def memory() -> Iterator[HostMemory]:
    descriptor = create()
    yield HostMemory(descriptor)
    os.close(descriptor)


def wanted(*places: AccountPlace, held: int = 5) -> list[Wanted]:
    return [(place, held, 0, NO_LIMIT, NO_LIMIT) for place in places]


def spent_in(memory: HostMemory, name: str) -> tuple[int, int, int]:
    accounts, place = BudgetAccounts(memory, "looks", lambda: NOW_MS), AccountPlace(name, FAR_MS)
    assert hold(accounts, wanted(place, held=0)) is True
    return accounts.amounts(place)


def names_of_one_slot() -> tuple[str, str]:
    """Return two names whose slots are the same, if nothing else is there."""
    names: dict[int, str] = {}
    for number in range(10_000):
        first = names.setdefault((key_of(f"{number}").low >> 1) % FIRST_ACCOUNTS, f"{number}")
        if first != f"{number}":
            return first, f"{number}"
    raise AssertionError("no two of 10,000 names have the same slot")


def test_a_request_whose_worker_has_no_row_left_keeps_the_row_of_its_other_account(memory: HostMemory) -> None:
    accounts = BudgetAccounts(memory, "worker", lambda: NOW_MS)
    everyone = AccountPlace("everyone", FAR_MS)
    header = bytes(memory.words[:16])
    for number in range(HOLD_ROWS):
        places = wanted(everyone, AccountPlace(f"customer {number}", FAR_MS))
        assert hold(accounts, places) is True
        settle(accounts, places, [1, 1])
    last = wanted(everyone, AccountPlace(f"customer {HOLD_ROWS}", FAR_MS))
    assert hold(accounts, last) is True
    assert accounts.amounts(everyone) == (HOLD_ROWS, 5, 0)
    settle(accounts, last, [1, 1])
    assert spent_in(memory, "everyone") == (HOLD_ROWS + 1, 0, 0)
    assert bytes(memory.words[:16]) == header


def test_new_accounts_of_one_request_take_no_slot_from_each_other(memory: HostMemory) -> None:
    pair = names_of_one_slot()
    accounts = BudgetAccounts(memory, "worker", lambda: NOW_MS)
    places = wanted(*(AccountPlace(name, FAR_MS) for name in pair))
    assert hold(accounts, places) is True
    settle(accounts, places, [2, 3])
    assert [spent_in(memory, name)[0] for name in pair] == [2, 3]


def test_a_request_that_holds_nothing_is_counted_in_its_own_account(memory: HostMemory) -> None:
    """The price of a model can be known only once the provider has named it."""
    accounts = BudgetAccounts(memory, "worker", lambda: NOW_MS)
    places = wanted(AccountPlace("unpriced", FAR_MS), held=0)
    assert hold(accounts, places) is True
    memory.words[places[0][0].at] = key_of("another").low  # its slot is another account's now
    settle(accounts, places, [7])
    assert spent_in(memory, "unpriced")[0] == 7
    assert places[0][0].at >= ACCOUNTS_AT


def test_a_gap_that_does_not_fit_into_the_second_account_leaves_nothing_in_either(memory: HostMemory) -> None:
    accounts = BudgetAccounts(memory, "worker", lambda: NOW_MS)
    p, q = (AccountPlace(name, FAR_MS) for name in "pq")
    group = AccountGroup([p, q], [100, 90], [100, 10], kinds=[1, 1], exceeded={1})
    assert accounts.hold(group, (0, 5), (0, 8)) is True
    assert accounts.hold(group, (0, 5), (0, 8)) == Full(1, False, 90, 0, 5, missing=5)
    assert [(accounts.amounts(each)[1], memory.words[each.at + GAP]) for each in (p, q)] == [(5, 8), (5, 8)]
    accounts.settle(group, (0, 5), (0, 8), (0, 3))
    assert [(accounts.amounts(each), memory.words[each.at + GAP]) for each in (p, q)] == [((3, 0, 0), 0)] * 2


def test_an_account_with_a_gap_in_flight_keeps_its_slot(memory: HostMemory) -> None:
    """A request that is expected to cost nothing can still cost something: that is its gap."""
    first, second = names_of_one_slot()
    accounts, other = (BudgetAccounts(memory, name, lambda: NOW_MS) for name in ("worker", "other"))
    place, taker = AccountPlace(first, FAR_MS), AccountPlace(second, FAR_MS)
    assert hold(accounts, [(place, 0, 5, 100, NO_LIMIT)]) is True
    assert hold(other, wanted(taker)) is True
    assert taker.at != place.at
    settle(accounts, [(place, 0, 5, 100, NO_LIMIT)], [0])
    assert hold(accounts, wanted(place, held=0)) is True
    assert memory.words[place.at + GAP] == 0


def test_a_row_follows_its_account_whose_slot_another_worker_took(memory: HostMemory) -> None:
    first, second = names_of_one_slot()
    killed, other = (BudgetAccounts(memory, name, lambda: NOW_MS) for name in ("killed", "other"))
    moved, taker = AccountPlace(first, FAR_MS), AccountPlace(second, FAR_MS)
    assert hold(killed, wanted(moved, held=0)) is True
    assert hold(other, wanted(taker, held=60)) is True
    assert taker.at == moved.at
    settle(killed, wanted(moved, held=0), [0])
    assert hold(killed, wanted(moved, held=40)) is True

    recompute_sums(memory.words)
    assert (other.amounts(taker), killed.amounts(moved)) == ((0, 60, 0), (0, 40, 0))
    number = find_place(memory.words, key_of("killed"))
    assert number is not None
    clear_rows(memory.words, number)
    assert (other.amounts(taker), killed.amounts(moved)) == ((0, 60, 0), (0, 0, 0))


def test_an_account_made_before_its_budget_carried_anything_over_gets_it(memory: HostMemory) -> None:
    accounts = BudgetAccounts(memory, "worker", lambda: NOW_MS)
    assert hold(accounts, wanted(AccountPlace("now", FAR_MS))) is True
    place = AccountPlace("now", FAR_MS, "before", lambda spent: 10 - spent)
    assert hold(accounts, [(place, 15, 0, 10, NO_LIMIT)]) is True
    assert accounts.amounts(place) == (0, 20, 10)

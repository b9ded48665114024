"""A request has the room that its own worker only holds ahead for others in the same account."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from llm_gateway.domain.budget import Budget
from llm_gateway.domain.budget_table import BudgetTable
from llm_gateway.domain.catalog import Candidate
from llm_gateway.errors import BudgetReserved, GatewayError
from llm_gateway.host_memory import HostMemory, create
from llm_gateway.host_memory.budget_accounts import BudgetAccounts
from llm_gateway.worker.pipeline.budget_advances import PART, REQUESTS_AHEAD
from llm_gateway.worker.pipeline.budgets import Budgets
from llm_gateway.worker.pipeline.lease_requests import Lack
from tests.worker.pipeline.fakes import World, provider, request

NOW_MS = 1_700_000_000_000
INPUT = 56
"""Most tokens of a request's input."""
BOUND = INPUT + 100
"""Tokens that a small request can use."""
ROOM = PART * REQUESTS_AHEAD + 2 * REQUESTS_AHEAD + 12
"""Small requests that all users have room for: enough to hold ahead for three of them."""
BUDGETS = (
    Budget(id="all", name="all", unit="tokens", limit=ROOM * BOUND, hold="bound", period="total"),
    Budget(id="each", name="each", unit="tokens", limit=10**9, hold="bound", per="user_id", period="total"),
)
CANDIDATE = Candidate.of(provider(), "m1")


class Asking:
    """The requests of a worker."""

    def __init__(self, memory: HostMemory, name: str) -> None:
        self.accounts = BudgetAccounts(memory, name, lambda: NOW_MS)
        self.world = World(self.accounts)
        self.budgets: Budgets = self.world.budgets
        self.budgets.change(BudgetTable(BUDGETS))
        self.count = 0

    def ask(self, user_id: str, size: int = 1) -> GatewayError | Lack | bool:
        """Hold what a request can use that is as large as `size` small ones."""
        self.count += 1
        asked = request(id=f"{self.count}", user_id=user_id, max_tokens=size * BOUND - INPUT)
        attempt = self.world.recorder.new_attempt(asked, CANDIDATE, 1)
        attempt.started_ms = NOW_MS
        return self.budgets.hold(asked, CANDIDATE, attempt, self.world.open(asked))

    def held(self) -> int:
        """Return what is held for all users, in bounds of small requests."""
        matched = self.budgets.matching(request(user_id="a"), CANDIDATE, NOW_MS)
        assert matched is not None
        spent, held, _ = self.accounts.amounts(matched.accounts[0].place)
        assert (spent, held % BOUND) == (0, 0)
        return held // BOUND


@pytest.fixture
def memory() -> Iterator[HostMemory]:
    descriptor = create()
    yield HostMemory(descriptor)
    os.close(descriptor)


def test_a_large_request_gets_what_is_held_ahead_for_others_as_far_as_it_needs_it(memory: HostMemory) -> None:
    own, other = Asking(memory, "one"), Asking(memory, "two")
    assert [own.ask(user_id) for user_id in "aabbcc"] == [True] * 6
    small = own.held()
    assert small == 6 + 3 * REQUESTS_AHEAD
    assert other.ask("z", 900) is True
    free = ROOM - small - 900

    assert isinstance(own.ask("d", free + 3 * REQUESTS_AHEAD + 1), BudgetReserved)
    assert own.held() == small + 900, "nothing is given back that does not help"
    assert own.ask("d", free + REQUESTS_AHEAD + 1) is True
    assert own.held() == small - 2 * REQUESTS_AHEAD + 900 + free + REQUESTS_AHEAD + 1
    assert own.ask("e", REQUESTS_AHEAD) is True, "the third advance is given back, too"
    assert own.held() == ROOM - REQUESTS_AHEAD + 1


def test_what_another_worker_holds_ahead_stays_its_own(memory: HostMemory) -> None:
    own, other = Asking(memory, "one"), Asking(memory, "two")
    assert [other.ask(user_id) for user_id in "aa"] == [True] * 2
    assert own.ask("b", 1_000) is True
    free = ROOM - own.held()
    assert isinstance(own.ask("b", free + 1), BudgetReserved)
    assert own.held() == ROOM - free
    assert own.ask("b", free) is True

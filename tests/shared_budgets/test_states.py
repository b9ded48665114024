"""Any order of holds, settles, crashes and cold starts on three budgets: no limit is passed, and nothing stays held."""

from __future__ import annotations

import os
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from llm_gateway.control.budget_balances import BudgetBalances
from llm_gateway.domain.budget import AccountRef, Balance, Budget
from llm_gateway.domain.budget_table import BudgetTable
from llm_gateway.domain.usage import AttemptRecord, UsageRecord
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.host_memory import HostMemory, create
from llm_gateway.host_memory.account_group import NO_LIMIT, AccountPlace
from llm_gateway.host_memory.budget_accounts import BudgetAccounts
from llm_gateway.journal.record_assembler import CRASHED
from tests.shared_budgets.holding import hold, settle

NOW_MS = 1_700_000_000_000
UNTIL_MS = NOW_MS + 10**9
BUDGETS = (
    Budget(id="bound", name="bound", limit=100, hold="bound"),
    Budget(id="expected", name="expected", limit=120, overdraft=20),
    Budget(id="one at a time", name="one at a time", limit=150, overdraft=0),
)
REFS = [AccountRef(budget.id, "", 0) for budget in BUDGETS]
NAMES = [rule.account_name(ref) for rule, ref in zip(BudgetTable(BUDGETS).rules, REFS, strict=True)]


class Worker:
    """A worker: its accounts, the requests that its journal leaves open, and the settled ones not stored yet."""

    def __init__(self, memory: HostMemory, name: str) -> None:
        self.name = name
        self.accounts = BudgetAccounts(memory, name, lambda: NOW_MS)
        self.places = [AccountPlace(name, UNTIL_MS) for name in NAMES]
        self.open: dict[int, tuple[int, int]] = {}
        self.settled = 0


def of_crash(cost: int) -> UsageRecord:
    attempt = AttemptRecord(
        id="a", provider_id="p", provider="p", kind="openai", model="m", started_ms=0, cost_nanos=cost, accounts=REFS
    )
    labels: dict[str, Any] = {"key_name": "k", "user_id": "u", "service": "s", "task_type": "t", "surface": "generate"}
    return UsageRecord(id=new_id(), at_ms=0, instance="i", error_code=CRASHED, attempts=[attempt], **labels)


class Host(RuleBasedStateMachine):
    """A host with up to three workers; `stored` is what the database has of each account."""

    requests = Bundle("requests")

    @initialize()
    def begin(self) -> None:
        self.descriptor = -1
        self.stored = self.started = self.number = self.largest = 0
        self.workers: list[Worker] = []
        self.cold_start()

    @rule()
    def cold_start(self) -> None:
        """Kill all processes and lose the memory; the next gateway replays the journals, then copies the balances."""
        for worker in self.workers:
            self.stored += worker.settled + sum(held + gap for held, gap in worker.open.values())
        self.workers = []
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = create()
        self.memory = HostMemory(self.descriptor)
        self.balances = BudgetBalances(self.memory, log=lambda *_, **__: None, clock_ms=lambda: NOW_MS)
        self.balances.load(BUDGETS, lambda: [(ref, Balance(self.stored)) for ref in REFS])
        self.start()

    @precondition(lambda self: len(self.workers) < 3)
    @rule()
    def start(self) -> None:
        self.started += 1
        self.workers.append(Worker(self.memory, f"worker {self.started}"))

    @rule(target=requests, which=st.integers(0, 2), held=st.integers(0, 30), gap=st.integers(0, 30))
    def hold(self, which: int, held: int, gap: int) -> tuple[Worker, int] | None:
        worker = self.workers[which % len(self.workers)]
        pairs = zip(worker.places, BUDGETS, strict=True)
        wanted = [
            (place, held + gap, 0, budget.limit, NO_LIMIT)
            if budget.hold == "bound"
            else (place, held, gap, budget.limit, budget.overdraft)
            for place, budget in pairs
        ]
        if hold(worker.accounts, wanted) is not True:
            return None
        self.number += 1
        self.largest = max(self.largest, held + gap)
        worker.open[self.number] = held, gap
        return worker, self.number

    @rule(request=consumes(requests), share=st.floats(0, 1))
    def settle(self, request: tuple[Worker, int] | None, share: float) -> None:
        if request is None or request[0] not in self.workers:
            return
        worker, number = request
        held, gap = worker.open.pop(number)
        cost = int((held + gap) * share)
        wanted = [
            (place, held + gap, 0, 0, 0) if budget.hold == "bound" else (place, held, gap, 0, 0)
            for place, budget in zip(worker.places, BUDGETS, strict=True)
        ]
        settle(worker.accounts, wanted, [cost] * len(wanted))
        worker.settled += cost

    @rule(which=st.integers(0, 2))
    def ship(self, which: int) -> None:
        worker = self.workers[which % len(self.workers)]
        self.stored, worker.settled = self.stored + worker.settled, 0

    @precondition(lambda self: len(self.workers) > 1)
    @rule(which=st.integers(0, 2))
    def crash(self, which: int) -> None:
        """Kill a worker: what its journal leaves open is stored and counted, then what it held is released."""
        worker = self.workers.pop(which % len(self.workers))
        self.stored += worker.settled
        costs = [held + gap for held, gap in worker.open.values()]

        def store(records: list[UsageRecord]) -> None:
            self.stored += sum(record.attempts[0].cost_nanos for record in records)

        if costs:
            self.balances.sink(store)([of_crash(cost) for cost in costs])
        self.balances.clear(worker.name)

    @invariant()
    def no_limit_is_passed_and_nothing_stays_held(self) -> None:
        worker = self.workers[0]
        assert hold(worker.accounts, [(place, 0, 0, NO_LIMIT, NO_LIMIT) for place in worker.places]) is True
        spent = self.stored + sum(each.settled for each in self.workers)
        flying = [amounts for each in self.workers for amounts in each.open.values()]
        for place, budget in zip(worker.places, BUDGETS, strict=True):
            extra = 0 if budget.hold == "bound" else max(budget.overdraft, self.largest)
            assert spent <= budget.limit + extra
            held = sum(held + (gap if budget.hold == "bound" else 0) for held, gap in flying)
            assert worker.accounts.amounts(place) == (spent, held, 0)

    def teardown(self) -> None:
        for worker in self.workers:
            for number in list(worker.open):
                self.settle((worker, number), 1.0)
        self.no_limit_is_passed_and_nothing_stays_held()
        os.close(self.descriptor)


TestHost = Host.TestCase
TestHost.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)

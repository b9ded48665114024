"""Hosts as tests run them in one process: each has a memory, a worker, control's part of budgets, and a journal."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from llm_gateway.control.budget_balances import BudgetBalances
from llm_gateway.control.lease_exchange import BudgetLeases
from llm_gateway.control.lease_memory import LeasedAccounts
from llm_gateway.domain.budget import AccountRef, Budget
from llm_gateway.domain.budget_table import BudgetTable
from llm_gateway.domain.usage import AttemptRecord, UsageRecord
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.errors import StoreUnavailable
from llm_gateway.host_memory import HostMemory, create
from llm_gateway.host_memory.account_group import NO_LIMIT, AccountGroup, AccountPlace
from llm_gateway.host_memory.budget_accounts import BudgetAccounts
from llm_gateway.store.budget_spend import BudgetSpend
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.database import Database
from llm_gateway.store.lease_ledger import LeaseLedger
from llm_gateway.store.usage import UsageStore

PATIENCE_S = 20.0
DRY_S = 0.3
"""Seconds for which a worker believes that nothing is left."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def silent(*_args: object, **_fields: object) -> None:
    """Take no note of log lines."""


class Host:
    """A host. `requests` are settled and not stored yet; `start` and `ship` are what its control does."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.database = Database.open(url, fsync=False, busy_timeout_s=2.0)
        self.journal: list[UsageRecord] = []
        self.journal_turn = threading.Lock()
        self.open: list[AccountRef] = []
        self.ledger = LeaseLedger(self.database, name)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.trips = 0
        self.lines: list[str] = []
        """Warnings."""
        self.later_s = 0.0
        self.living: set[str] = set()
        self.dry_until = 0.0
        self.new_memory()

    def new_memory(self) -> None:
        """Lose the memory, as at a start of the gateway."""
        self.descriptor = create()
        self.memory = HostMemory(self.descriptor)
        self.new_control()
        self.new_worker()

    def new_worker(self) -> None:
        """Start a worker, in the place of the one before."""
        self.worker_name = f"{self.name} {new_id()}"
        self.worker = BudgetAccounts(self.memory, self.worker_name, now_ms)
        self.groups: dict[AccountRef, AccountGroup] = {}

    def living_hosts(self) -> set[str]:
        """Return the hosts that are not killed."""
        return self.living or set(self.ledger.hosts())

    def log(self, event: str, level: str = "info", **_fields: object) -> None:
        """Keep warnings."""
        if level != "info":
            self.lines.append(event)

    def new_control(self) -> None:
        """Be a control process that knows nothing but the memory and the database."""
        self.balances = BudgetBalances(self.memory, silent)
        self.leased_accounts = LeasedAccounts(self.memory, self.balances.locked)
        self.leases = BudgetLeases(
            self.ledger,
            self.leased_accounts,
            self.balances,
            self.living_hosts,
            self.log,
            lambda: time.monotonic() + self.later_s,
        )
        self.sink = self.balances.sink(UsageStore(self.database, self.leases.use).write)

    def start(self, patience_s: float = 0.0) -> None:
        """Store what the journal has, join, and copy balances."""
        self.ship()
        self.balances.learn(BudgetStore(self.database).in_force())
        self.leases.join(patience_s)
        self.reload()

    def reload(self) -> None:
        """Take the budgets that are in force."""
        spend = BudgetSpend(self.database)
        self.balances.load(BudgetStore(self.database).in_force(), lambda: spend.balances(now_ms()))

    def run(self) -> None:
        """Ship and answer in the background until `stop`."""
        self._stop.clear()
        steps = (self.leases.step, 0.02), (self.ship, 0.05)
        self._threads = [threading.Thread(target=self._repeat, args=each) for each in steps]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End what runs in the background."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def kill(self) -> None:
        """End without a word: what is in flight is in the journal, at its bound."""
        self.stop()
        with self.journal_turn:
            self.journal += [record(ref, self.worker_name) for ref in self.open]
            self.open = []

    def ship(self) -> None:
        """Store what is in the journal."""
        with self.journal_turn:
            records = list(self.journal)
        if records:
            self.sink(records)
            with self.journal_turn:
                del self.journal[: len(records)]

    def hold(self, budget: Budget, value: str = "") -> bool:
        """Hold one request. Returns False if it is refused."""
        rule = BudgetTable([budget]).rules[0]
        ref = AccountRef(budget.id, value, rule.period_at(now_ms()).start_ms)
        group = self.groups.get(ref)
        if group is None:
            place = AccountPlace(rule.account_name(ref), rule.period_at(now_ms()).end_ms)
            limit = budget.limit if budget.mode == "hard" else NO_LIMIT
            group = self.groups[ref] = AccountGroup([place], [limit], [NO_LIMIT])
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            came = self.worker.hold(group, [1])
            if came is True:
                with self.journal_turn:
                    self.open.append(ref)
                return True
            if came is not False:
                if not came.lacks:
                    return False
                if time.monotonic() < self.dry_until:
                    return False
                self.trips += 1
                answer = self.leases.fetch(ref, 1, 1)
                if answer.state == "dry":
                    self.dry_until = time.monotonic() + DRY_S
                    return False
                if answer.state == "unavailable":
                    return False
        return False

    def settle(self) -> None:
        """Settle the oldest request in flight."""
        with self.journal_turn:
            ref = self.open.pop(0)
            self.journal.append(record(ref, self.worker_name))
        self.worker.settle(self.groups[ref], [1], None, [1])

    def close(self) -> None:
        """Close the database and the memory."""
        self.stop()
        self.database.close()
        os.close(self.descriptor)

    def _repeat(self, step: Callable[[], None], every_s: float) -> None:
        while not self._stop.wait(every_s):
            with suppress(StoreUnavailable):
                step()


def record(ref: AccountRef, writer: str, error_code: str | None = None) -> UsageRecord:
    """Return a request that was charged to an account, from the journal of a worker."""
    attempt = AttemptRecord(
        id="a", provider_id="p", provider="p", kind="openai", model="m", started_ms=now_ms(), accounts=[ref]
    )
    labels: dict[str, Any] = {"key_name": "k", "user_id": "u", "service": "s", "task_type": "t", "surface": "generate"}
    return UsageRecord(
        id=new_id(), at_ms=now_ms(), instance=writer, error_code=error_code, attempts=[attempt], **labels
    )


@contextmanager
def hosts(url: str, *names: str) -> Iterator[list[Host]]:
    """Return hosts that are not started."""
    with ExitStack() as stack:
        made = []
        for name in names:
            host = Host(url, name)
            stack.callback(host.close)
            made.append(host)
        yield made

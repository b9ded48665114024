"""Balances of budgets: from the database into the memory that workers share, and what workers that died had spent.

    cold start      journals left over are replayed, then all balances are copied: the memory counts nothing yet
    budget changed  balances of accounts that the memory has not are copied, before workers learn of the budget
    backfill        what older records add to an account is added
    repricing       what it has changed in stored accounts is added, once a second
    erasure         what a customer's stored accounts had is taken from those of the label that it had
    worker died     its open requests are stored at their bound, then added here once, then what it held is cleared

An account that the memory has is never copied again: the memory has counted each settled attempt, of which the newest
are not in the database yet. If this process is killed right after it stored the open requests of a worker, they are
added once more by the next one: too much is counted until the next cold start, never too little. No balance is copied
between the moments in which records are stored and in which they are added here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from llm_gateway import wall_clock
from llm_gateway.domain.budget import AccountRef, Balance, Budget
from llm_gateway.domain.budget_table import BudgetRule, BudgetTable, needed_until_ms
from llm_gateway.domain.stored_budget import carried as carried_by
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.host_memory import HostMemory
from llm_gateway.host_memory.budget_holds import LOADED, clear_rows, find_place, owners, recompute_sums
from llm_gateway.host_memory.budget_slots import CARRIED, NOT_CARRIED, SPENT, TAKEN, BudgetSlots
from llm_gateway.host_memory.lease_layout import LEASING
from llm_gateway.host_memory.lock import BUDGETS, HostLock
from llm_gateway.host_memory.slots import Key, key_of
from llm_gateway.journal.record_assembler import CRASHED
from llm_gateway.journal.segments import find_writers
from llm_gateway.store.budget_spend import Corrections

Balances: TypeAlias = Iterable[tuple[AccountRef, Balance]]
Sink: TypeAlias = Callable[[list[UsageRecord]], None]
MOST_CUT_OFF = 20_000
"""Requests that a crash cut off whose ids are kept, the newest ones. A worker has at most some thousand in flight."""
AT_ONCE = 64
"""Accounts that are written under one lock."""
NOT_COUNTED = "balances of budgets are not counted: their memory is full or locked"
LONGEST_WAIT_S, STEP_S = 2.0, 0.01
"""Longest wait for a process that holds the lock, and seconds between two tries."""
_NOTHING = Balance()


class BudgetBalances:
    """The accounts as the control process changes them. All methods are for all threads.

    Args:
        memory: shared by the processes of the host; None if the system refused it.
        log: `log(event, level=…, **fields)`.
        clock_ms: the time of day in milliseconds.
        patience_s: the longest wait for a process that holds the lock.
    """

    def __init__(
        self,
        memory: HostMemory | None,
        log: Callable[..., None],
        clock_ms: Callable[[], int] = wall_clock.now_ms,
        patience_s: float = LONGEST_WAIT_S,
    ) -> None:
        self._words: Any = None if memory is None else memory.words
        self._log = log
        self._clock_ms = clock_ms
        self._patience_s = patience_s
        self._turn = threading.Lock()
        self._books = threading.RLock()
        """Held while what the database has and what the memory has are compared, or changed together."""
        self._storing = threading.RLock()
        """Held while records are stored."""
        self._cut_off: dict[str, None] = {}
        """Ids of the requests that `sink` has added: the shipper sends a writer's records again after a defect."""
        self._owed: list[tuple[AccountRef, Balance]] = []
        """Spending that a process which holds the lock has kept from the memory. It is added when the lock is free."""
        self._unreleased: set[Key] = set()
        """Workers that have ended, whose rows stay until then."""
        self._budgets: tuple[Budget, ...] = ()
        self.rules: dict[str, BudgetRule] = {}
        """The budgets in force, by the ids of their accounts."""
        if memory is not None:
            self._slots = BudgetSlots(memory.words)
            self._lock = HostLock(memory, BUDGETS, lambda: recompute_sums(memory.words))

    def load(
        self,
        budgets: tuple[Budget, ...],
        balances: Callable[[], Balances],
        carried: Callable[[], Iterable[tuple[AccountRef, int]]] = tuple,
    ) -> None:
        """Copy the balances of these budgets' accounts that the memory has not. Call it before workers get them.

        `balances` returns those of the current periods, `carried` what the periods before left for them.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        if self._words is None or (budgets == self._budgets and self._words[LOADED]):
            return
        with self._books:
            self._load(budgets, balances, carried)

    def _load(
        self,
        budgets: tuple[Budget, ...],
        balances: Callable[[], Balances],
        carried: Callable[[], Iterable[tuple[AccountRef, int]]],
    ) -> None:
        self.learn(budgets)
        if self._words[LEASING]:  # accounts count what this host spends
            self._budgets, self._words[LOADED] = budgets, 1
            return
        left = dict(carried()) if budgets else {}
        found = {ref: balance for ref, balance in balances() if ref.budget_id in self.rules} if budgets else {}
        found = {**dict.fromkeys((ref for ref in left if ref.budget_id in self.rules), _NOTHING), **found}
        self._write(self.rules, found.items(), left, only_missing=True)
        self._budgets = budgets
        self._words[LOADED] = 1

    def learn(self, budgets: tuple[Budget, ...]) -> None:
        """Note which budgets there are."""
        self.rules = {rule.budget.id: rule for rule in BudgetTable(budgets).rules}

    @contextmanager
    def nothing_stored(self) -> Iterator[None]:
        """Let no record be stored, and no balance be copied, within this context."""
        with self._books, self._storing:
            yield

    def add(self, charges: Balances) -> None:
        """Add to what accounts have spent. Accounts of unknown budgets are ignored."""
        if self._words is not None:
            rules = self.rules  # another thread may load others meanwhile
            known = ((ref, each) for ref, each in charges if ref.budget_id in rules)
            with self._books:
                self._owed += self._write(rules, known, {}, only_missing=False)

    def add_stored(self, store: Callable[[], bool], charges: Balances) -> bool:
        """Store charges by calling `store`, then add them, unless it returns False. Returns what it returned.

        No balance is copied in between, which would have the charges already.
        """
        with self._books:
            if not store():
                return False
            if self._words is not None and not self._words[LEASING]:
                self.add(charges)
        return True

    def correct(self, take: Callable[[], Corrections]) -> int:
        """Add corrections that `take` takes from the database. Returns in how many accounts there were some.

        Nothing is taken while limits are leased, and before balances are copied: then the database is read.
        If this process is killed in between, the corrections count at the next cold start.

        What could not be added before is added now.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        if self._words is None:
            return 0
        self._catch_up()
        with self._books:
            if not self._counts_stored():
                return 0
            found = take()
            self._apply(found)
        return len(found.charges)

    def correct_stored(self, store: Callable[[], Corrections]) -> Corrections:
        """Store corrections by calling `store`, which returns them, then add them. Returns them."""
        with self._books:
            found = store()
            if self._words is not None and self._counts_stored():
                self._apply(found)
        return found

    def _counts_stored(self) -> bool:
        """Return whether accounts count what the database has. Needs `_books`, which `share` holds, too."""
        return bool(self._words[LOADED]) and not self._words[LEASING]

    def _apply(self, found: Corrections) -> None:
        """Correct the accounts that the memory has. Others have spent nothing, or their period is over."""
        refs = [ref for ref in {**found.charges, **found.carried} if ref.budget_id in self.rules]
        # What an account leaves for the next period follows from its own correction.
        rest, lost = iter(sorted(refs, key=lambda ref: ref.period_start_ms)), 0
        deadline = time.monotonic() + self._patience_s
        while part := list(islice(rest, AT_ONCE)):
            with self.locked(deadline) as is_locked:
                for ref in part if is_locked else ():
                    self._correct(ref, found)
            lost += 0 if is_locked else len(part)
        if lost:
            self._log(NOT_COUNTED, level="error", count=lost)

    def _correct(self, ref: AccountRef, found: Corrections) -> None:
        """Correct an account. Needs the lock."""
        rule, words = self.rules[ref.budget_id], self._words
        at = self._slots.find(key_of(rule.account_name(ref)))
        if at is None:
            return
        more = max(found.charges.get(ref, _NOTHING).of(rule.budget.unit), -words[at + SPENT])
        words[at + TAKEN] += more
        words[at + SPENT] += more
        if ref in found.carried and words[at + CARRIED] != NOT_CARRIED:
            start_ms = rule.period_at(ref.period_start_ms - 1).start_ms
            before = self._slots.find(key_of(rule.account_name(ref._replace(period_start_ms=start_ms))))
            # The memory can have more, not stored yet or held, or less, if it is younger than that period.
            by_memory = carried_by(rule.budget, 0 if before is None else words[before + TAKEN])
            words[at + CARRIED] = min(found.carried[ref], by_memory)

    def sink(self, store: Sink) -> Sink:
        """Return a sink that stores records with `store`, and then counts those of requests that a crash cut off.

        Each is counted once, however often it is stored.
        """

        def write(records: list[UsageRecord]) -> None:
            cut_off = [record for record in records if record.error_code == CRASHED]
            if not cut_off or self._words is None:
                with self._storing:
                    store(records)
                return
            with self._books, self._storing:
                store(records)
                self._add_cut_off(cut_off)

        return write

    def _add_cut_off(self, stored: Iterable[UsageRecord]) -> None:
        new = [record for record in stored if record.id not in self._cut_off]
        if self._words[LOADED]:
            self.add(_charges(new))
        self._cut_off |= dict.fromkeys(record.id for record in new)
        for oldest in list(islice(self._cut_off, max(0, len(self._cut_off) - MOST_CUT_OFF))):
            del self._cut_off[oldest]

    def held(self, refs: Iterable[AccountRef]) -> dict[AccountRef, int]:
        """Return what is held in accounts for this host's requests in flight, in their units. Takes no lock."""
        found = {}
        for ref in refs if self._words is not None else ():
            rule = self.rules.get(ref.budget_id)
            at = None if rule is None else self._slots.find(key_of(rule.account_name(ref)))
            if at is not None:
                found[ref] = max(0, self._words[at + TAKEN] - self._words[at + SPENT])
        return found

    def clear(self, writer: str) -> None:
        """Release what a worker held whose journal has this name, which is in the database now."""
        if self._words is not None:
            self._unreleased.add(key_of(writer))
            self._catch_up()

    def clear_ended(self, root: Path) -> None:
        """Release what workers held that have no journal in the directory `root` any more."""
        if self._words is None:
            return
        holders = owners(self._words)  # before the directories are listed, so that a new one has its directory
        living = {key_of(path.name) for path in find_writers(root)}
        self._unreleased |= {owner for owner in holders if owner not in living}
        self._catch_up()

    def _catch_up(self) -> None:
        """Add what is owed, and then release what ended workers held; later if a process still holds the lock."""
        with self._books:
            if self._owed:
                owed, self._owed = self._owed, []
                self.add(owed)
            for owner in () if self._owed else [*self._unreleased]:
                with self.locked() as is_locked:
                    if not is_locked:
                        return
                    number = find_place(self._words, owner)
                    if number is not None:
                        clear_rows(self._words, number)
                self._unreleased.discard(owner)

    def _write(
        self,
        rules: Mapping[str, BudgetRule],
        balances: Balances,
        carried: Mapping[AccountRef, int],
        *,
        only_missing: bool,
    ) -> list[tuple[AccountRef, Balance]]:
        """Write or add balances, some under each lock, so that workers do not wait for long.

        Returns those that a process which holds the lock has kept from the memory.
        """
        kept: list[tuple[AccountRef, Balance]] = []
        rest, now_ms, lost = iter(balances), self._clock_ms(), 0
        deadline = time.monotonic() + self._patience_s
        while part := list(islice(rest, AT_ONCE)):
            named = [(rules[ref.budget_id], ref, balance) for ref, balance in part]
            prepared = [
                (key_of(rule.account_name(ref)), needed_until_ms(rule, ref), balance.of(rule.budget.unit), ref)
                for rule, ref, balance in named
            ]
            with self.locked(deadline) as is_locked:
                kept += [] if is_locked else part
                for key, until_ms, amount, ref in prepared:
                    at = self._slots.find(key) if is_locked else None
                    if at is not None and not only_missing:
                        self._words[at + TAKEN] += amount  # before it is counted as spent: never too little
                        self._words[at + SPENT] += amount
                    elif at is not None and ref in carried and self._words[at + CARRIED] == NOT_CARRIED:
                        self._words[at + CARRIED] = carried[ref]  # its budget has carried nothing over so far
                    elif at is None and is_locked:
                        left = carried.get(ref, NOT_CARRIED)
                        at = self._slots.claim(key, now_ms, until_ms, spent=amount, carried=left)
                    lost += at is None
        if lost:
            self._log(NOT_COUNTED, level="error", count=lost)
        return kept

    @contextmanager
    def locked(self, deadline: float | None = None) -> Iterator[bool]:
        """Hold the lock; tells False if a process does not give it back until the deadline (`time.monotonic()`)."""
        with self._turn:
            deadline = deadline or time.monotonic() + self._patience_s
            while not (is_locked := self._lock.acquire()) and time.monotonic() < deadline:
                time.sleep(STEP_S)
            try:
                yield is_locked
            finally:
                if is_locked:
                    self._lock.release()


def _charges(records: Iterable[UsageRecord]) -> Balances:
    """Return what records were charged to each account: requests count once."""
    charges: dict[AccountRef, Balance] = {}
    for record in records:
        seen = set()
        for attempt in record.attempts:
            tokens = attempt.usage.input_tokens + attempt.usage.output_tokens
            for ref in attempt.accounts:
                before = charges.get(ref, _NOTHING)
                requests = before.requests + (ref not in seen)
                charges[ref] = Balance(before.nanos + attempt.cost_nanos, before.tokens + tokens, requests)
                seen.add(ref)
    return charges.items()

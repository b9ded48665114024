"""Get leases from the database for this host's workers, return idle ones, and give back what other hosts ask for.

    alone ── another host joins ──▶ share: whatever is spent here and not stored, or held, stays granted ──▶ leasing

    a worker's lease is too small ──▶ take ── enough ──▶ written to the memory
                                       └── dry ──▶ ask the others ──▶ take once more ──▶ granted, or refused

What others ask for is answered within `ANSWER_S`. Leases that nobody uses are returned, also those of a budget whose
limit is lowered. A host that is killed keeps its leases until it runs again, or an operator releases them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from llm_gateway import wall_clock
from llm_gateway.control.budget_balances import BudgetBalances
from llm_gateway.control.lease_memory import LeasedAccounts
from llm_gateway.domain.budget import AccountRef
from llm_gateway.domain.budget_lease import Wish
from llm_gateway.domain.budget_table import BudgetRule, needed_until_ms
from llm_gateway.domain.lease_answer import LeaseAnswer
from llm_gateway.domain.stored_budget import limit_at
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import StoreUnavailable
from llm_gateway.host_memory.slots import Key, key_of
from llm_gateway.store.budget_charges import Charges, charges_of
from llm_gateway.store.bulk import Pause
from llm_gateway.store.lease_ledger import (
    SLACK_MS,
    LeaseLedger,
    MustWait,
    NotJoined,
    Taken,
    Transaction,
    Used,
    key_in,
    text_of,
)

ANSWER_S = 0.05
"""Seconds between two looks for what other hosts ask for."""
RECALL_S, RECALL_STEP_S = 0.25, 0.02
"""Longest wait for what other hosts return, and seconds between two looks for it."""
PROMISED_S = 0.1
"""Seconds for which what was just granted is left to the requests that waited for it, also if another host wants it."""
LOOK_S = 1.0
"""Seconds between two looks for other hosts, for lowered limits and for idle leases."""
IDLE_S = 20.0
"""Seconds without a change after which the rest of a lease is returned."""
JOIN_S = 3.0
"""Longest wait at the start for a host that has been alone to share its limits."""
WARN_EVERY_S, PRUNE_EVERY_S = 60.0, 3600.0
"""Seconds between two log lines about silent hosts, and between two deletions of old leases."""


class Known(NamedTuple):
    """An account with a lease: its budget ("" if it is not known), what is used, since when (seconds), its end."""

    budget_id: str
    used: int
    since: float
    until_ms: int


class BudgetLeases:
    """The leases of this host. Methods are for all threads, and may wait for the database.

    Args:
        ledger: the database's side.
        accounts: the memory's side.
        balances: whose records are stored meanwhile, and which budgets there are.
        living: returns the ids of the hosts that run.
        log: `log(event, level=…, **fields)`.
        clock: seconds, for idle leases.
    """

    def __init__(
        self,
        ledger: LeaseLedger,
        accounts: LeasedAccounts,
        balances: BudgetBalances,
        living: Callable[[], Collection[str]],
        log: Callable[..., None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._accounts = accounts
        self._balances = balances
        self._living = living
        self._log = log
        self._clock = clock
        self._turn = threading.Lock()
        """Held while the ledger and the memory are changed together."""
        self._is_alone = True
        self._known: dict[Key, Known] = {}
        self._limits: dict[str, int] = {}
        self._looked, self._warned, self._pruned = -LOOK_S, -WARN_EVERY_S, -PRUNE_EVERY_S
        self._touched: dict[Key, AccountRef] = {}
        self._promised: dict[Key, float] = {}

    @property
    def is_alone(self) -> bool:
        """Whether this host may use whole limits."""
        return self._is_alone

    def join(self, patience_s: float = JOIN_S) -> None:
        """Begin to use budgets, before workers hold anything by this process's configuration.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        with self._turn:
            self._join()
        deadline = time.monotonic() + patience_s
        while not self._is_alone and self._waits_for() and time.monotonic() < deadline:
            time.sleep(RECALL_STEP_S)

    def use(self, transaction: Transaction, records: Sequence[UsageRecord], charges: Charges, pause: Pause) -> None:
        """Note what stored records have used of leases, in their transaction.

        Those of other hosts, whose journals were moved here, have used nothing of what is granted to this one.
        """
        if self._is_alone:
            return
        owners, used = self._accounts.owners(), []
        own = [record for record in records if key_of(record.instance) in owners]
        if len(own) < len(records):
            charges = charges_of(own)
        for ref, balance in charges.items():
            rule = self._balances.rules.get(ref.budget_id)
            if rule is not None:
                key = key_of(rule.account_name(ref))
                self._touched[key] = ref
                used.append(Used(text_of(key), balance.of(rule.budget.unit), _until_ms(rule, ref), ref.budget_id))
        self._ledger.use(transaction, used, pause)

    def fetch(self, ref: AccountRef, least: int, most: int) -> LeaseAnswer:
        """Get more of an account for requests that need `least` at least, and `most` together."""
        if self._is_alone and not self._accounts.is_leasing:
            return LeaseAnswer("granted")
        rule = self._balances.rules.get(ref.budget_id)
        if rule is None:
            return LeaseAnswer("unavailable", text="its budget was changed a moment ago")
        try:
            taken = self._take(rule, ref, least, most)
            if taken.lease is not None and not taken.is_enough and taken.elsewhere:
                taken = self._recall(rule, ref, least, most)
                if not taken.is_enough:
                    self._warn_of(self._ledger.holders(text_of(key_of(rule.account_name(ref)))))
        except MustWait as host:
            self._warn_of({str(host)})
            return LeaseAnswer("unavailable", text="another host has not shared its limit yet")
        except (StoreUnavailable, NotJoined):
            return LeaseAnswer("unavailable", text="the database does not answer")
        if taken.lease is None:
            return LeaseAnswer("unavailable", text="its budget was changed a moment ago")
        spent, held = self._accounts.amounts(key_of(rule.account_name(ref)))
        return LeaseAnswer(
            "granted" if taken.is_enough else "dry",
            taken.limit,
            taken.spent + max(0, spent - taken.lease.used),
            held + taken.elsewhere,
        )

    def step(self) -> None:
        """Answer what others ask for; and now and then look for hosts, lowered limits and idle leases.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        is_due = self._clock() - self._looked >= LOOK_S
        if self._is_alone:
            if self._accounts.is_leasing or (is_due and self._ledger.must_share()):
                self.share()
        else:
            self._answer()
            if is_due:
                self._look()
        if is_due:
            self._looked = self._clock()

    def share(self) -> None:
        """End being alone: what is held or not stored yet stays granted to this host, and all the rest is left.

        Raises:
            StoreUnavailable: the database does not answer; call it again.
        """
        with self._turn, self._balances.nothing_stored():
            spent = self._ledger.spent()
            self._accounts.begin(max(2, len(self._ledger.hosts())))
            noted = self._accounts.noted()  # read first, since workers move it to the accounts
            found = [each for each in self._accounts.every() if each.until_ms > _now_ms()]
            counted = {each.key: max(each.spent, noted.get(each.key, 0)) for each in found}
            offsets = {key: min(amount, spent.get(text_of(key), 0)) for key, amount in counted.items()}
            self._accounts.set_offsets(offsets)
            kept = [(each.key, each.taken - offsets[each.key], each.until_ms) for each in found]
            kept = [each for each in kept if each[1] > 0]
            self._ledger.share((text_of(key), amount, until_ms + SLACK_MS) for key, amount, until_ms in kept)
            self._accounts.set_granted(kept)
            self._is_alone = False
            self._lowered()  # nothing was granted by limits of before
            self._known |= {key: Known("", -1, self._clock(), until_ms) for key, _, until_ms in kept}
        self._log("budgets are shared with other hosts now", accounts=len(kept))

    def leave(self) -> None:
        """Return everything at the end. All records must be stored, and no worker may be left.

        Raises:
            StoreUnavailable: the database does not answer; the leases stay.
        """
        with self._turn:
            if not self._is_alone:
                self._accounts.set_granted((each.key, 0, 0) for each in self._accounts.every())
            self._ledger.leave()

    def _join(self) -> None:
        is_new = self._accounts.is_new
        self._is_alone = self._ledger.join(is_new=is_new, is_leasing=self._accounts.is_leasing)
        if self._is_alone:
            return
        self._accounts.begin(max(2, len(self._ledger.hosts())))
        if is_new:
            self._lowered()
        else:
            granted = {key_in(account): (amount, until_ms) for account, amount, until_ms in self._ledger.own()}
            gone = [each.key for each in self._accounts.every() if each.key not in granted]
            self._accounts.set_granted([(key, *lease) for key, lease in granted.items()])
            self._accounts.set_granted((key, 0, 0) for key in gone)
            self._known = {key: Known("", -1, self._clock(), lease[1]) for key, lease in granted.items()}

    def _warn_of(self, hosts: Collection[str]) -> None:
        """Log the silent ones of the hosts for which requests wait, once a minute."""
        silent = sorted(set(hosts) - set(self._living()))
        if silent and self._clock() - self._warned >= WARN_EVERY_S:
            self._warned = self._clock()
            self._log("requests need what a silent host may use of a budget", level="warning", hosts=silent)

    def _waits_for(self) -> bool:
        """Return whether a living host has not shared its limits yet."""
        alone = {host for host, is_alone in self._ledger.hosts().items() if is_alone}
        return not alone.isdisjoint(self._living())

    def _take(self, rule: BudgetRule, ref: AccountRef, least: int, most: int) -> Taken:
        key, until_ms = key_of(rule.account_name(ref)), _until_ms(rule, ref)
        with self._turn:
            used = sum(self._accounts.amounts(key))
            wish, hosts = Wish(used + least, used + most), len(self._living())
            try:
                taken = self._ledger.take(rule.budget, ref, wish, hosts, until_ms)
            except NotJoined:
                self._join()
                taken = self._ledger.take(rule.budget, ref, wish, hosts, until_ms)
            if taken.lease is not None:
                self._accounts.set_granted([(key, taken.lease.granted, until_ms)])
                self._accounts.show(key, taken.spent, taken.lease.used)
                self._known[key] = Known(ref.budget_id, used, self._clock(), until_ms)
                if taken.is_enough:
                    self._promised[key] = self._clock() + PROMISED_S
        return taken

    def _recall(self, rule: BudgetRule, ref: AccountRef, least: int, most: int) -> Taken:
        account, living = text_of(key_of(rule.account_name(ref))), self._living()
        if self._ledger.ask_back(account, living):
            deadline = time.monotonic() + RECALL_S
            while time.monotonic() < deadline and self._ledger.unanswered(account, living):
                time.sleep(RECALL_STEP_S)
        return self._take(rule, ref, least, most)

    def _answer(self) -> None:
        asked = self._ledger.asked()
        if not asked:
            return
        with self._turn:
            now = self._clock()
            self._promised = {key: until for key, until in self._promised.items() if until > now}
            due = [key for key in map(key_in, asked) if key not in self._promised]
            self._give_back(due, {text_of(key): asked[text_of(key)] for key in due})

    def _give_back(self, keys: Collection[Key], answers: Mapping[str, int]) -> None:
        """Return what nobody holds. Needs the turn."""
        left = {text_of(key): amount for key, amount in self._accounts.give_back(keys).items()}
        if left or answers:
            self._ledger.give_back(left, answers)

    def _look(self) -> None:
        hosts = self._ledger.hosts()
        if self._ledger.host not in hosts:
            self._log("leases of this host were released", level="warning")
            with self._turn:
                self._join()
        elif len(hosts) > 1:
            self._accounts.begin(len(hosts))
        now, now_ms, lowered = self._clock(), _now_ms(), self._lowered()
        returned = []
        for key, known in list(self._known.items()):
            used = sum(self._accounts.amounts(key))
            if used != known.used:
                self._known[key] = known._replace(used=used, since=now)
            elif now - known.since >= IDLE_S:
                returned.append(key)
            if known.until_ms < now_ms or known.budget_id in lowered or (lowered and not known.budget_id):
                returned.append(key)
        if returned:
            with self._turn:
                self._give_back(returned, {})
            for key in returned:
                self._known.pop(key, None)
        self._show()
        if now - self._pruned >= PRUNE_EVERY_S:
            self._pruned = now
            self._ledger.prune()

    def _lowered(self) -> set[str]:
        """Return the budgets whose limits are lower than at the last look, or were not looked at before."""
        now_ms, before = _now_ms(), self._limits
        self._limits = {name: limit_at(rule.budget, now_ms) for name, rule in self._balances.rules.items()}
        return {name for name, limit in self._limits.items() if limit < before.get(name, limit + 1)}

    def _show(self) -> None:
        """Tell workers what others have spent of the accounts that records were stored of lately.

        If one has more spent and leased than its limit, since older usage was added to it, this host returns its part.
        """
        touched, self._touched = self._touched, {}
        rules, now_ms, over = self._balances.rules, _now_ms(), []
        known = {key: (rules[ref.budget_id].budget, ref) for key, ref in touched.items() if ref.budget_id in rules}
        if not known:
            return
        amounts = self._ledger.amounts({text_of(key): each for key, each in known.items()})
        for key, (budget, _) in known.items():
            spent, own, elsewhere = amounts[text_of(key)]
            self._accounts.show(key, spent, own.used)
            if own.outstanding + elsewhere + spent > (1 + budget.carry) * limit_at(budget, now_ms):
                over.append(key)
        if over:
            with self._turn:
                self._give_back(over, {})


async def follow_leases_forever(leases: BudgetLeases, log: Callable[..., None], *, every_s: float = ANSWER_S) -> None:
    """Call `step` again and again. Runs until cancelled."""
    is_failing = False
    while True:
        try:
            await asyncio.to_thread(leases.step)
            is_failing = False
        except StoreUnavailable:  # logged by the health check
            pass
        except Exception as error:  # edge: the job logs any failure once and goes on
            if not is_failing:
                log("leases of budgets cannot be exchanged", level="error", exc_info=error)
            is_failing = True
        await asyncio.sleep(LOOK_S if leases.is_alone else every_s)


def _until_ms(rule: BudgetRule, ref: AccountRef) -> int:
    return needed_until_ms(rule, ref) + SLACK_MS


def _now_ms() -> int:
    return wall_clock.now_ms()

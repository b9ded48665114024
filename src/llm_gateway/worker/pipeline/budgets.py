"""Budgets: hold what a call can cost in all of its accounts before it is sent, and count what it did cost.

    hold ── room in all accounts ──▶ held ── the record is settled ──▶ spent counted, released
      └── a hard budget is full ──▶ nothing is held, BudgetExceeded or BudgetReserved

Each attempt holds for itself, at the price of its own candidate, in the accounts of its own provider and model. What an
earlier attempt of the request may have been billed stays held until the record is settled. So spent ≤ limit with the
hold `bound`. With `expected`, an attempt holds the cost of an output that 95 % of the last answers did not exceed; what
the bounds of all requests in flight exceed their holds by stays below `overdraft`, or one request is in flight alone.
So spent ≤ limit + max(overdraft, one bound).

What is counted once: the accounts in the memory count an attempt when its record is settled, and the database when the
shipper stores that record. The control process copies balances from the database into the memory only where the memory
has no such account: after a cold start, when the journals left over are stored before anything is copied, and when a
budget is made or changed, before workers learn of it (`control/budget_balances.py`). No worker reads the database.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from random import uniform
from weakref import WeakValueDictionary

import msgspec

from llm_gateway.domain.budget import AccountRef
from llm_gateway.domain.budget_table import BudgetRule, BudgetTable, Values
from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.request import Request
from llm_gateway.domain.usage import AttemptRecord, UsageRecord
from llm_gateway.errors import GatewayError, Overloaded, RequestNotAllowed
from llm_gateway.host_memory.budget_accounts import (
    NO_LIMIT,
    BudgetAccounts,
    Full,
    NoRoom,
    Used,
    Wanted,
)
from llm_gateway.worker.pipeline.budget_account import Account, Matched
from llm_gateway.worker.pipeline.budget_amounts import cost_of, expected_cost, largest_cost
from llm_gateway.worker.pipeline.budget_texts import (
    FIRST_RETRY_S,
    LAST_RETRY_S,
    Amounts,
    budget_header,
    refusal,
    warning_header,
)
from llm_gateway.worker.pipeline.output_samples import OutputSamples

LONGEST_WAIT_S, STEP_S = 0.25, 0.001
"""Longest wait for the accounts' lock, as for that of the limits, and seconds between two tries."""
MOST_REMEMBERED = 4_096
"""Combinations of values whose accounts are remembered."""
LOG_EVERY_S = 60.0
MOST_KEYS = 1_024
"""Keys whose refusals are counted for the log."""


class AttemptHold(msgspec.Struct, eq=False):
    """What one attempt holds: in each of its accounts `helds` and, beyond that, `gaps` that it can cost."""

    attempt: AttemptRecord
    accounts: tuple[Account, ...]
    helds: list[int]
    gaps: list[int]


class Budgets:
    """The budgets of the requests of one worker; `table` is the snapshot's, None without budgets.

    `accounts` are those of the host; without them no request of a `hard` budget is served. `log(event, level=…,
    **fields)` gets a line a minute for each key that was refused.
    """

    def __init__(
        self,
        accounts: BudgetAccounts | None,
        *,
        log: Callable[..., None],
        clock: Callable[[], float] = time.monotonic,
        retry_after: Callable[[float, float], float] = uniform,
    ) -> None:
        self.table: BudgetTable | None = None
        self._accounts = accounts
        self._log = log
        self._clock = clock
        self._retry_after = retry_after
        self._samples = OutputSamples()
        self._held: dict[str, list[AttemptHold]] = {}
        self._matched: dict[Values, Matched] = {}
        self._known: WeakValueDictionary[tuple[str, AccountRef], Account] = WeakValueDictionary()
        self._refusals: dict[str, tuple[float, int]] = {}

    def change(self, table: BudgetTable | None) -> None:
        """Use the budgets of another snapshot. What is held stays where it is."""
        if table is not self.table:
            self.table = table
            self._matched.clear()
            self._known.clear()

    async def hold(
        self, request: Request, candidate: Candidate, attempt: AttemptRecord, record: UsageRecord
    ) -> GatewayError | None:
        """Hold what an attempt can cost, and name its accounts in it. Returns the error if there is no room for it."""
        matched = self.matching(request, candidate, attempt.started_ms)
        if matched is None:
            return None
        earlier = self._held.get(record.id)
        if earlier is not None:
            self._keep_billed(earlier)
        held = AttemptHold(attempt, matched.accounts, *self._amounts(request, attempt, matched.accounts, earlier))
        try:
            error = await self._hold(held, request, attempt.started_ms)
        except NoRoom:
            if any(account.rule.budget.mode == "hard" for account in matched.accounts):
                return Overloaded(
                    "The memory of the budgets' accounts has no room for another one: send the request again, or make "
                    "a budget with fewer accounts.",
                    retry_after_s=LAST_RETRY_S,
                )
            error = None
        if error is None:
            attempt.accounts = matched.refs
        return error

    def give_back(self, record: UsageRecord, attempt: AttemptRecord) -> None:
        """Release what the last attempt of a record holds, which was not even journalled."""
        holds = self._held.get(record.id)
        if holds is not None and holds[-1].attempt is attempt and self._accounts is not None:
            last = holds.pop()
            if not holds:
                del self._held[record.id]
            self._accounts.settle(_used(last, [0] * len(last.accounts)))

    def charge(self, record: UsageRecord) -> None:
        """Count what the attempts of a record have cost, and release what they hold."""
        holds = self._held.pop(record.id, None)
        if holds is None or self._accounts is None:
            return
        used: list[Used] = []
        for held in holds:
            used += _used(held, _spent(held))
        self._accounts.settle(used)
        if record.outcome == "ok" and not holds[-1].attempt.usage_estimated:
            last = holds[-1].attempt
            self._samples.add(record.key, last.model, last.usage.output_tokens)

    def close(self) -> None:
        """Release what could not be released yet."""
        if self._accounts is not None:
            self._accounts.close()

    def note_refusal(self, key: str, error: GatewayError) -> None:
        """Count a request of a key that ended with this error, for the log if a budget refused it."""
        if error.budget is None:
            return
        now = self._clock()
        since, count = self._refusals.get(key, (now - LOG_EVERY_S, 0))
        if now - since < LOG_EVERY_S:
            self._refusals[key] = since, count + 1
            return
        if len(self._refusals) >= MOST_KEYS:
            self._refusals.clear()
        self._refusals[key] = now, 0
        self._log(
            "requests refused by a budget",
            level="warning",
            key=key,
            budget=error.budget.name,
            error_code=error.code,
            count=count + 1,
        )

    def accounts_of(self, record: UsageRecord) -> tuple[Account, ...]:
        """Return the accounts of a record's last attempt, until it is charged."""
        holds = self._held.get(record.id)
        return () if holds is None else holds[-1].accounts

    def headers(self, accounts: Sequence[Account]) -> list[tuple[bytes, bytes]]:
        """Return the headers of a success: of the account that has the least left, and of exceeded `soft` ones."""
        if self._accounts is None:
            return []
        headers, least, shown = [], 2.0, None
        now_ms = time.time_ns() // 1_000_000
        for account in accounts:
            if account.rule.budget.mode == "observe":
                continue
            spent, held, carried = self._accounts.amounts(account.place)
            amounts = Amounts(account.limit(now_ms) + carried, spent, held)
            if account.rule.budget.mode == "soft" and spent + held > amounts.limit:
                headers.append(warning_header(account.rule, amounts))
            share = amounts.left / amounts.limit if amounts.limit else 0.0
            if share < least:
                least, shown = share, budget_header(account.rule, account.end_ms, amounts)
        return headers if shown is None else [shown, *headers]

    def matching(self, request: Request, candidate: Candidate, now_ms: int) -> Matched | None:
        """Return the accounts of a request at a candidate now; None if no budget matches."""
        table = self.table
        if table is None:
            return None
        values = table.values(request, candidate.provider.name, candidate.model)
        matched = self._matched.get(values)
        if matched is None or matched.until_ms <= now_ms:
            matched = self._match(table, values, now_ms)
        return matched if matched.accounts else None

    def _match(self, table: BudgetTable, values: Values, now_ms: int) -> Matched:
        accounts = []
        for rule in table.matching(values):
            start_ms, end_ms = rule.period_at(now_ms)
            ref = AccountRef(rule.budget.id, rule.value(values), start_ms)
            account = self._known.get((rule.name, ref))
            if account is None:
                account = self._known[rule.name, ref] = Account(rule, ref, end_ms)
            accounts.append(account)
        until_ms = min((account.end_ms for account in accounts), default=NO_LIMIT)
        if len(self._matched) >= MOST_REMEMBERED:
            self._matched.clear()
        matched = self._matched[values] = Matched(tuple(accounts), [account.ref for account in accounts], until_ms)
        return matched

    async def _hold(self, held: AttemptHold, request: Request, now_ms: int) -> GatewayError | None:
        """Hold the amounts. Returns the error if there is no room.

        Raises:
            NoRoom: the memory has no room for one of the accounts.
        """
        wanted, is_hard = [], False
        for account, amount, gap in zip(held.accounts, held.helds, held.gaps, strict=True):
            budget = account.rule.budget
            if budget.mode == "hard":
                is_hard = True
                wanted.append(Wanted(account.place, amount, gap, account.limit(now_ms), budget.overdraft))
                if budget.unit == "usd" and held.attempt.price is None and budget.unpriced == "reject":
                    return _unpriced(account.rule, held.attempt)
            else:
                wanted.append(Wanted(account.place, amount, gap))
        accounts = self._accounts
        if accounts is None:
            return _without_memory() if is_hard else None
        came = accounts.hold(wanted)
        if came is False:
            came = await self._hold_later(accounts, wanted)
        if came is True:
            self._held.setdefault(request.id, []).append(held)
            return None
        if isinstance(came, Full):
            return self._refused(held.accounts[came.number], came, held)
        return _locked() if is_hard else None

    async def _hold_later(self, accounts: BudgetAccounts, wanted: list[Wanted]) -> Full | bool:
        deadline = self._clock() + LONGEST_WAIT_S
        while self._clock() < deadline:
            await asyncio.sleep(STEP_S)
            came = accounts.hold(wanted)
            if came is not False:
                return came
        return False

    def _refused(self, account: Account, full: Full, held: AttemptHold) -> GatewayError:
        retry_after_s = None if full.is_used_up else self._retry_after(FIRST_RETRY_S, LAST_RETRY_S)
        amounts = Amounts(full.limit, full.spent, full.held)
        needed = held.helds[full.number]
        return refusal(account.rule, account.ref, account.end_ms, amounts, needed, retry_after_s=retry_after_s)

    def _keep_billed(self, holds: list[AttemptHold]) -> None:
        """Lower what the earlier attempts of a request hold to what they may have been billed."""
        for held in holds:
            spent = _spent(held)
            used = [
                Used(account.place, amount - new, gap, 0)
                for account, amount, gap, new in zip(held.accounts, held.helds, held.gaps, spent, strict=True)
            ]
            held.helds, held.gaps = spent, [0] * len(spent)
            if self._accounts is not None:
                self._accounts.settle(used)

    def _amounts(
        self, request: Request, attempt: AttemptRecord, accounts: tuple[Account, ...], earlier: list[AttemptHold] | None
    ) -> tuple[list[int], list[int]]:
        """Return what to hold in each account, and by how much the attempt can exceed it."""
        helds, gaps = [], []
        bound, largest, expected = cost_of(attempt), None, None
        for account in accounts:
            budget = account.rule.budget
            if budget.unit == "requests":
                helds.append(0 if earlier is not None and _has_counted(earlier, account.ref) else 1)
                gaps.append(0)
            elif budget.hold == "bound":
                largest = largest or largest_cost(request, attempt)
                helds.append(largest.of(budget.unit))
                gaps.append(0)
            else:
                expected = expected or expected_cost(request, attempt, self._samples)
                helds.append(expected.of(budget.unit))
                gaps.append(bound.of(budget.unit) - helds[-1])
        return helds, gaps


def _spent(held: AttemptHold) -> list[int]:
    """Return what an attempt has cost in each of its accounts, or may have cost while that is not known."""
    cost = cost_of(held.attempt)
    spent = []
    for account, amount in zip(held.accounts, held.helds, strict=True):
        unit = account.rule.budget.unit
        spent.append(amount if unit == "requests" else cost.of(unit))
    return spent


def _used(held: AttemptHold, spent: list[int]) -> list[Used]:
    return [
        Used(account.place, amount, gap, nanos)
        for account, amount, gap, nanos in zip(held.accounts, held.helds, held.gaps, spent, strict=True)
    ]


def _has_counted(holds: list[AttemptHold], ref: AccountRef) -> bool:
    return any(account.ref == ref for held in holds for account in held.accounts)


def _unpriced(rule: BudgetRule, attempt: AttemptRecord) -> RequestNotAllowed:
    return RequestNotAllowed(
        f"Budget '{rule.budget.name}' is in dollars, and the price of {attempt.provider}/{attempt.model} is not known: "
        "give the provider prices, or set the budget's unpriced to allow."
    )


def _without_memory() -> Overloaded:
    return Overloaded(
        "Budgets need memory that the gateway's processes share, which the system refused at the start, or which an "
        "earlier version of the gateway made: restart the gateway."
    )


def _locked() -> Overloaded:
    return Overloaded(
        "The budgets' accounts are locked by another process of the gateway, which does not run: send the request "
        "again.",
        retry_after_s=1.0,
    )

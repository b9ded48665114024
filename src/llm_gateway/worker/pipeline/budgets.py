"""Budgets: hold what a call can cost in all of its accounts before it is sent, and count what it did cost.

    hold ── room in all accounts ──▶ held ── the record is settled ──▶ spent counted, released
      └── a hard budget is full ──▶ nothing is held, BudgetExceeded or BudgetReserved

Each attempt holds for itself, at the price of its own candidate, in the accounts of its own provider and model. What an
earlier attempt of the request may have been billed stays held until the record is settled. So spent ≤ limit with the
hold `bound`. With `expected`, an attempt holds the cost of an output that 95 % of the last answers did not exceed; what
the bounds of all requests in flight exceed their holds by stays below `overdraft`, or one request is in flight alone.
So spent ≤ limit + max(overdraft, one bound).

What is counted once: the accounts in the memory count an attempt when its record is settled, or up to 0.2 s
later if its amount was held ahead (`budget_advances.py`). The database counts it when the
shipper stores that record. The control process copies balances from the database into the memory only where the memory
has no such account: after a cold start, when the journals left over are stored before anything is copied, and when a
budget is made or changed, before workers learn of it (`control/budget_balances.py`). No worker reads the database.

If several hosts share the budgets, an account has room for what is leased to this host
(`host_memory/lease_layout.py`). A request that it is too small for waits while control gets more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from random import uniform
from weakref import WeakValueDictionary

from llm_gateway.domain.budget import AccountRef
from llm_gateway.domain.budget_table import BudgetTable
from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.plan import Plan
from llm_gateway.domain.request import Request
from llm_gateway.domain.usage import AttemptRecord, UsageRecord
from llm_gateway.errors import GatewayError
from llm_gateway.host_memory.account_group import AccountGroup, Full
from llm_gateway.host_memory.budget_accounts import BudgetAccounts, NoRoom
from llm_gateway.host_memory.retry import Retry
from llm_gateway.worker.pipeline.attempt_holds import AttemptHold, ByKind, Held, as_list, by_kind, one_by_one
from llm_gateway.worker.pipeline.budget_account import Account, Matched, match_of
from llm_gateway.worker.pipeline.budget_advances import Advances
from llm_gateway.worker.pipeline.budget_amounts import expected_cost, largest_cost
from llm_gateway.worker.pipeline.budget_bounds import not_bounded, set_output_limit
from llm_gateway.worker.pipeline.budget_texts import (
    FIRST_RETRY_S,
    LAST_RETRY_S,
    Amounts,
    budget_header,
    locked,
    refusal,
    unpriced,
    warning_header,
    without_memory,
    without_room,
)
from llm_gateway.worker.pipeline.lease_requests import Lack, LeaseRequests, unavailable
from llm_gateway.worker.pipeline.output_samples import OutputSamples, Series

LONGEST_WAIT_S, STEP_S = 0.25, 0.001
"""Longest wait for the accounts' lock, as for that of the limits, and seconds between two tries."""
LONGEST_LEASE_WAIT_S = 1.0
"""After it, no further question for more is asked: others have taken what was got before."""
MOST_REMEMBERED = 4_096
"""Combinations of values whose accounts are remembered."""
LOG_EVERY_S = 60.0
MOST_KEYS = 1_024
"""Keys whose refusals are counted for the log."""


class Budgets:
    """The budgets of the requests of one worker; `table` is the snapshot's, None without budgets.

    `accounts` are those of the host; without them no request of a `hard` budget is served. `leases` gets more of them
    if hosts share them. `log(event, level=…, **fields)` gets a line a minute for each key that was refused.
    """

    def __init__(
        self,
        accounts: BudgetAccounts | None,
        leases: LeaseRequests | None = None,
        *,
        log: Callable[..., None],
        clock: Callable[[], float] = time.monotonic,
        retry_after: Callable[[float, float], float] = uniform,
    ) -> None:
        self.table: BudgetTable | None = None
        self._accounts = accounts
        self._advances = Advances(accounts)
        self._leases = leases or LeaseRequests(None)
        self._log = log
        self._clock = clock
        self._retry_after = retry_after
        self._samples = OutputSamples()
        self._held: dict[str, Held] = {}
        self._matched: dict[object, dict[bytes, Matched]] = {}
        """Accounts by the fields of a request, then by the candidate."""
        self._remembered = 0
        self._known: WeakValueDictionary[tuple[str, AccountRef], Account] = WeakValueDictionary()
        self._refusals: dict[str, tuple[float, int]] = {}
        self._retry = Retry(self._release_late)

    def change(self, table: BudgetTable | None) -> None:
        """Use the budgets of another snapshot. What is held stays where it is."""
        self._matched.clear()  # a provider may have another name
        if table is not self.table:
            self.table = table
            self._known.clear()

    def limit_output(self, request: Request, plan: Plan) -> None:
        """Set the limit of output tokens that budgets which are never passed hold; raises as `set_output_limit`."""
        if self.table is not None and self.table.is_any_never_passed:
            set_output_limit(request, plan, self.matching)

    def hold(
        self, request: Request, candidate: Candidate, attempt: AttemptRecord, record: UsageRecord
    ) -> GatewayError | Lack | bool:
        """Hold what an attempt can cost, and name its accounts in it.

        Returns True if it may be sent, else why not. See `hold_later` for a `Lack`, and for False: they are locked.
        """
        table = self.table
        if table is None:
            return True
        of_models = self._matched.get(table.fields(request))
        matched = None if of_models is None else of_models.get(candidate.cache_part if table.uses_model else b"")
        if matched is None or not matched.since_ms <= attempt.started_ms < matched.until_ms:
            matched = self._match(table, request, candidate, attempt.started_ms)
        window, size = candidate.context_window, request.client_request.size
        if matched.never_passed and (size is None or not size.is_plain):
            refused = not_bounded(matched.never_passed, request, candidate)
            if refused is not None:
                return refused
        advance = matched.advance
        if advance.is_open and record.id not in self._held:
            nanos, tokens = matched.bound(request, attempt, window)
            if advance.take(nanos, tokens) or self._advances.take(matched, nanos, tokens):
                self._held[record.id] = attempt, matched, nanos, tokens
                attempt.accounts = matched.refs
                return True
        if not matched.accounts:
            return True
        if attempt.price is None and matched.rejects_unpriced is not None:
            return unpriced(matched.rejects_unpriced, attempt)
        came = self._hold(request, attempt, record, matched, window)
        if came is True:
            attempt.accounts = matched.refs
        return came

    def _hold(
        self, request: Request, attempt: AttemptRecord, record: UsageRecord, matched: Matched, window: int | None
    ) -> GatewayError | Lack | bool:
        """Hold what an attempt can cost, or is expected to cost, in the accounts themselves."""
        needs: Sequence[int]
        gaps: Sequence[int] | None
        needs, gaps, samples = self._amounts(request, attempt, matched, window)
        held, accounts, group = self._held.get(record.id), self._accounts, matched.group
        earlier = None if held is None else as_list(held)
        if earlier is not None:
            self._held[record.id] = earlier
            self._keep_billed(earlier)
            group = matched.one_by_one()
            needs, gaps = one_by_one(needs, gaps, matched, earlier)
        try:
            came = None if accounts is None else accounts.hold(group, needs, gaps)
            if isinstance(came, Full):
                came = self._hold_again(came, group, needs, gaps)
        except NoRoom:
            came = None
        if came is True:
            hold = AttemptHold(attempt, matched, group, needs, gaps, earlier is None, samples)
            if earlier is not None:
                earlier.append(hold)
                return True
            self._held[record.id] = [hold]
            if matched.advance.is_busy(attempt.started_ms):
                self._advances.fill(matched, *matched.bound(request, attempt, window))
        elif came is False:
            return False
        elif came is not None:
            return self._refused(matched.accounts[came.number], came, needs[group.kinds[came.number]])
        elif matched.is_hard:
            return without_memory() if accounts is None else without_room()
        return True

    def _hold_again(
        self, came: Full | bool, group: AccountGroup, needs: Sequence[int], gaps: Sequence[int] | None
    ) -> Full | bool:
        """Hold amounts after what is held ahead has made room for them, if it can."""
        while isinstance(came, Full) and self._accounts is not None:
            if not self._advances.give_way(group.places[came.number], came.missing):
                break
            came = self._accounts.hold(group, needs, gaps)
        return came

    async def hold_later(
        self,
        request: Request,
        candidate: Candidate,
        attempt: AttemptRecord,
        record: UsageRecord,
        came: Lack | bool = False,
    ) -> GatewayError | bool:
        """Hold once the accounts are not locked, or more is leased. Returns True if it may be sent, else why not.

        `came` is what `hold` returned.
        """
        deadline = self._clock() + (LONGEST_LEASE_WAIT_S if isinstance(came, Lack) else LONGEST_WAIT_S)
        while self._clock() < deadline:
            if isinstance(came, Lack):
                refused = await self._leases.more(came)
                if refused is not None:
                    return refused
            else:
                await asyncio.sleep(STEP_S)
            again = self.hold(request, candidate, attempt, record)
            if again is True or isinstance(again, GatewayError):
                return again
            came = again
        if isinstance(came, Lack):
            return unavailable(came.account, "other requests have taken what it got")
        matched = self.matching(request, candidate, attempt.started_ms)
        if matched is not None and matched.is_hard:
            return locked()
        attempt.accounts = [] if matched is None else matched.refs
        return True

    def give_back(self, record: UsageRecord, attempt: AttemptRecord) -> None:
        """Release what the last attempt of a record holds, which was not even journalled."""
        held = self._held.get(record.id)
        holds = [] if held is None else as_list(held)
        if holds and holds[-1].attempt is attempt and self._accounts is not None:
            last = holds.pop()
            if not holds:
                del self._held[record.id]
            self._accounts.settle(last.group, last.needs, last.gaps, [0] * len(last.needs))
            if self._accounts.late:
                self._retry.start()

    def charge(self, record: UsageRecord) -> None:
        """Count what the attempts of a record have cost, and release what they hold."""
        held, accounts = self._held.pop(record.id, None), self._accounts
        if held is None or accounts is None:
            return
        if isinstance(held, tuple):
            attempt, matched, nanos, tokens = held
            samples, usage, cost = None, attempt.usage, attempt.cost_nanos
            used = usage.input_tokens + usage.output_tokens
            spent = cost, cost, used, used, 1
            if matched.advance.give_back(nanos - cost, tokens - used):
                accounts.note_spent(matched.group, spent)
            else:
                accounts.settle(matched.group, by_kind(nanos, tokens), None, spent)
        else:
            for hold in held:
                accounts.settle(hold.group, hold.needs, hold.gaps, hold.spent())
            last = held[-1]
            attempt, matched, samples = last.attempt, last.matched, last.samples
        if accounts.late:
            self._retry.start()
        if matched.has_expected and record.outcome == "ok" and not attempt.usage_estimated:
            if samples is None:
                of = record.key_id or record.key_name, attempt.model
                samples = self._samples.known.get(of) or self._samples.make(*of)
            samples.add(attempt.usage.output_tokens)

    def close(self) -> None:
        """Release what could not be released yet. The place among the holders is freed by the control process."""
        self._advances.close()
        self._retry.now()

    def _release_late(self) -> bool:
        return self._accounts is None or self._accounts.release_late()

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

    def accounts_of(self, record: UsageRecord) -> Matched | None:
        """Return the accounts of a record's last attempt, until it is charged."""
        held = self._held.get(record.id)
        if held is None:
            return None
        return held[1] if isinstance(held, tuple) else held[-1].matched

    def headers(self, matched: Matched | None) -> list[tuple[bytes, bytes]]:
        """Return the headers of a success: of the account that has the least left, and of exceeded `soft` ones."""
        accounts = self._accounts
        if matched is None or accounts is None:
            return []
        warnings: list[tuple[bytes, bytes]] = []
        least, shown, left_there = 2.0, None, 0
        for account, limit in matched.shown:
            place = account.place
            if place.carried is not None:
                limit += accounts.amounts(place)[2]  # noqa: PLW2901 - the limit of this period
            left = limit - accounts.taken(place)
            if left < 0:
                if account.rule.budget.mode == "soft":
                    warnings.append(warning_header(account, limit, limit - left))
                left = 0
            share = left / limit if limit else 0.0
            if share < least:
                least, shown, left_there = share, account, left
        return warnings if shown is None else [budget_header(shown, left_there), *warnings]

    def matching(self, request: Request, candidate: Candidate, now_ms: int) -> Matched | None:
        """Return the accounts of a request at a candidate now; None if no budget matches."""
        table = self.table
        if table is None:
            return None
        of_models = self._matched.get(table.fields(request))
        matched = None if of_models is None else of_models.get(candidate.cache_part if table.uses_model else b"")
        if matched is None or not matched.since_ms <= now_ms < matched.until_ms:
            matched = self._match(table, request, candidate, now_ms)
        return matched if matched.accounts else None

    def _match(self, table: BudgetTable, request: Request, candidate: Candidate, now_ms: int) -> Matched:
        accounts, values = [], table.values(request, candidate.provider.name, candidate.model)
        for rule in table.matching(values):
            start_ms, end_ms = rule.period_at(now_ms)
            ref = AccountRef(rule.budget.id, rule.value(values), start_ms)
            account = self._known.get((rule.name, ref))
            if account is None:
                account = self._known[rule.name, ref] = Account(rule, ref, end_ms)
            accounts.append(account)
        self._remembered += 1
        if self._remembered > MOST_REMEMBERED:
            self._remembered = 0
            self._matched.clear()
        matched = match_of(tuple(accounts), now_ms)
        of_models = self._matched.setdefault(table.fields(request), {})
        of_models[candidate.cache_part if table.uses_model else b""] = matched
        return matched

    def _amounts(
        self, request: Request, attempt: AttemptRecord, matched: Matched, window: int | None
    ) -> tuple[ByKind, ByKind | None, Series | None]:
        """Return what to hold, by how much the attempt can exceed it (None: by nothing), and what is learnt from it."""
        nanos, usage, samples = attempt.cost_nanos, attempt.usage, None
        output = usage.output_tokens
        tokens = usage.input_tokens + output
        most_nanos, most_tokens = largest_cost(request, attempt, window) if matched.has_bound else (0, 0)
        if matched.has_expected:
            samples = self._samples.find(request.key_name if request.key is None else request.key.id, attempt.model)
            likely = None if samples is None else samples.expected
            if likely is not None and likely < output:
                likely_nanos, likely_tokens = expected_cost(attempt, likely)
                return (
                    (likely_nanos, most_nanos, likely_tokens, most_tokens, 1),
                    (nanos - likely_nanos, 0, tokens - likely_tokens, 0, 0),
                    samples,
                )
        return (nanos, most_nanos, tokens, most_tokens, 1), None, samples

    def _refused(self, account: Account, full: Full, needed: int) -> GatewayError | Lack:
        if full.lacks:
            lack = Lack(account, needed)
            return self._leases.known(lack) or lack
        retry_after_s = None if full.is_used_up else self._retry_after(FIRST_RETRY_S, LAST_RETRY_S)
        return refusal(account, Amounts(full.limit, full.spent, full.held), needed, retry_after_s=retry_after_s)

    def _keep_billed(self, holds: list[AttemptHold]) -> None:
        """Lower what the earlier attempts of a request hold to what they may have been billed."""
        for hold in holds:
            spent, before, gaps = hold.spent(), hold.needs, hold.gaps
            hold.needs, hold.gaps = spent, None
            if self._accounts is not None:
                lower = [need - cost for need, cost in zip(before, spent, strict=True)]
                self._accounts.settle(hold.group, lower, gaps, [0] * len(lower))

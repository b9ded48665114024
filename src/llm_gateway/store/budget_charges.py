"""Sum what records were charged to the accounts of budgets. No SQL.

Each attempt names its accounts (`AttemptRecord.accounts`). Its cost and tokens count in each of them; the request
counts once in an account, however many attempts name it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from llm_gateway.domain.budget import AccountRef, Balance
from llm_gateway.domain.usage import AttemptRecord, UsageRecord
from llm_gateway.errors import RecordsRefused
from llm_gateway.store.rollups import LARGEST_SUM

Charges: TypeAlias = dict[AccountRef, Balance]
"""Amounts to add to the spending of accounts."""

NOTHING = Balance()


def charges_of(records: Iterable[UsageRecord]) -> Charges:
    """Return the charges of records.

    Raises:
        RecordsRefused: a sum is so large that the counters could overflow.
    """
    found: Charges = {}
    sums: dict[AccountRef, list[int]] = {}
    for record in records:
        attempts = record.attempts
        if len(attempts) == 1:  # nearly always
            _add_attempt(sums, attempts[0])
        elif any(attempt.accounts for attempt in attempts):
            add(found, charges_of_record(record))
    add(found, {account: Balance(*amounts) for account, amounts in sums.items()})
    for (budget_id, value, _), balance in found.items():
        if max(balance) > LARGEST_SUM or min(balance) < 0:
            raise RecordsRefused(f"The charges of budget {budget_id}, account {value!r}, are too large to be summed.")
    return found


def _add_attempt(sums: dict[AccountRef, list[int]], only: AttemptRecord) -> None:
    """Add the only attempt of a record to its accounts, which it names once each."""
    accounts = only.accounts
    if accounts:
        tokens = only.usage.input_tokens + only.usage.output_tokens
        for account in accounts:
            known = sums.get(account)
            if known is None:
                sums[account] = [only.cost_nanos, tokens, 1]
            else:
                known[0] += only.cost_nanos
                known[1] += tokens
                known[2] += 1


def charges_of_record(record: UsageRecord) -> Charges:
    """Return the charges of one record."""
    found: Charges = {}
    for attempt in record.attempts:
        tokens = attempt.usage.input_tokens + attempt.usage.output_tokens
        for account in attempt.accounts:
            nanos, before, _ = found.get(account, NOTHING)
            found[account] = Balance(nanos + attempt.cost_nanos, before + tokens, 1)
    return found


def charge_changes(before: Iterable[UsageRecord], after: Iterable[UsageRecord]) -> Charges:
    """Return what to add to the accounts when the records `before` are replaced by `after`."""
    found = charges_of(after)
    for account, (nanos, tokens, requests) in charges_of(before).items():
        now = found.get(account, NOTHING)
        found[account] = Balance(now.nanos - nanos, now.tokens - tokens, now.requests - requests)
    return {account: change for account, change in found.items() if change != NOTHING}


def add(sums: Charges, more: Mapping[AccountRef, Balance]) -> None:
    """Add charges to sums."""
    for account, (nanos, tokens, requests) in more.items():
        now = sums.get(account, NOTHING)
        sums[account] = Balance(now.nanos + nanos, now.tokens + tokens, now.requests + requests)

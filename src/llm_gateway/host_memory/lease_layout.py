"""Leases of accounts, if several hosts share the budgets: words beside the accounts' slots.

    alone ── another host appears, `LEASING` is set ──▶ leasing

While a host is alone, these words are neither read nor written: an account may be used up to its limit. Once it leases,
an account may be used up to `GRANTED` beyond `OFFSET`, which only the control process changes. `LEASING` is set under
the accounts' lock together with a new `GENERATION`, so that no worker holds an amount by the old rule after it.
"""

from __future__ import annotations

from typing import Any

from llm_gateway.host_memory import ACCOUNT_WORDS, ACCOUNTS_AT, BUDGETS_AT, LEASE_WORDS, LEASES_AT

LEASING, HOSTS = BUDGETS_AT + 2, BUDGETS_AT + 3
"""Words of the budgets' header: 1 once the host leases, and how many hosts there are then."""
GRANTED, OFFSET, OTHERS = range(3)
"""Words of a lease, in the account's unit. `GRANTED`: what was granted to this host since it leases, as its row in the
database says. `OFFSET`: what the account's slot had counted as spent before that. `OTHERS`: what was spent beside what
the slot counts, as control last read it; for people, and decides nothing."""


def lease_of(at: int) -> int:
    """Return the word at which the lease of the account begins whose slot begins at the word `at`."""
    return LEASES_AT + (at - ACCOUNTS_AT) // ACCOUNT_WORDS * LEASE_WORDS


def forget_lease(words: Any, at: int) -> None:
    """Set the lease of a slot to nothing, before another account gets the slot."""
    lease = lease_of(at)
    for word in (GRANTED, OFFSET, OTHERS):
        words[lease + word] = 0

"""Slots of the budgets' accounts in shared memory: what each has spent in its period, and what is held in it.

A slot is found by the digest of its account's name. The slots are in tables that double in size; one has a slot in the
first table whose places for it are not all taken. So 10,000 accounts are in the first megabyte of 64. An account whose
period is over, or that has spent nothing and got nothing from the period before, gives its slot up if nothing is held
in it and another one needs it: unknown accounts have spent nothing. While something is leased of it, it stays.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from llm_gateway.host_memory import ACCOUNT_TABLES, ACCOUNT_WORDS, ACCOUNTS_AT, BUDGETS_AT, FIRST_ACCOUNTS
from llm_gateway.host_memory.lease_layout import GRANTED, LEASING, OFFSET, forget_lease, lease_of
from llm_gateway.host_memory.slots import FREED, KEY_HIGH, KEY_LOW, NEVER, Key

SPENT, TAKEN, GAP, UNTIL, CARRIED = range(2, 7)
"""Words of a slot. `TAKEN`: what was spent, and what is held for requests in flight, over all holders; `GAP`: by how
much these can exceed what is held for them. `UNTIL`: the time (milliseconds UTC) until which it is needed. `CARRIED`:
what the period before left for this one, or `NOT_CARRIED`."""
NOT_CARRIED = -1
GENERATION = BUDGETS_AT + 1
"""Word of the budgets' header: a counter of the times that a slot or a row was given to another account."""
PROBES = 16


class BudgetSlots:
    """The tables. All methods need the accounts' lock."""

    __slots__ = ("_tables", "_words")

    def __init__(self, words: Any) -> None:
        self._words = words
        self._tables = [
            (ACCOUNTS_AT + FIRST_ACCOUNTS * ((1 << number) - 1) * ACCOUNT_WORDS, FIRST_ACCOUNTS << number)
            for number in range(ACCOUNT_TABLES)
        ]

    def find(self, key: Key) -> int | None:
        """Return the word at which an account's slot begins; None if it has none."""
        words = self._words
        for start, count in self._tables:
            for probe in range(PROBES):
                at = start + ((key.low >> 1) + probe) % count * ACCOUNT_WORDS
                low = words[at]
                if low == key.low and words[at + KEY_HIGH] == key.high:
                    return at
                if low == NEVER:  # it would have got this one
                    return None
        return None

    def claim(
        self,
        key: Key,
        now_ms: int,
        until_ms: int,
        *,
        spent: int = 0,
        carried: int = NOT_CARRIED,
        kept: Collection[int] = (),
    ) -> int | None:
        """Give an account a slot, which has none; None if there is no room. Accounts in the slots `kept` stay."""
        words = self._words
        for start, count in self._tables:
            for probe in range(PROBES):
                at = start + ((key.low >> 1) + probe) % count * ACCOUNT_WORDS
                if words[at] in (NEVER, FREED) or (at not in kept and self._is_idle(at, now_ms)):
                    if words[at] != NEVER:
                        words[GENERATION] += 1
                        words[at + KEY_LOW] = FREED
                    if words[LEASING]:
                        forget_lease(words, at)
                    made = (SPENT, spent), (TAKEN, spent), (GAP, 0), (UNTIL, until_ms), (CARRIED, carried)
                    for word, value in made:
                        words[at + word] = value
                    words[at + KEY_HIGH] = key.high
                    words[at + KEY_LOW] = key.low
                    return at
        return None

    def _is_idle(self, at: int, now_ms: int) -> bool:
        words = self._words
        if words[at + TAKEN] != words[at + SPENT] or words[at + GAP]:  # a free request holds nothing but a gap
            return False
        if words[LEASING]:
            lease = lease_of(at)
            if words[lease + GRANTED] + words[lease + OFFSET] > words[at + SPENT]:
                return False
        return words[at + UNTIL] <= now_ms or (not words[at + SPENT] and words[at + CARRIED] == NOT_CARRIED)

"""Write this host's leases into the memory that its workers read.

What the ledger grants is written here after it is committed there, and what is given back is taken from here before: a
process that is killed in between leaves too little here, never too much. Amounts are absolute, so that the next process
writes what the ledger has.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from llm_gateway import wall_clock
from llm_gateway.errors import StoreUnavailable
from llm_gateway.host_memory import ACCOUNT_WORDS, ACCOUNTS_AT, MOST_ACCOUNTS, WORD, HostMemory
from llm_gateway.host_memory.budget_holds import LOADED, noted_spending, owners
from llm_gateway.host_memory.budget_slots import GENERATION, NOT_CARRIED, SPENT, TAKEN, UNTIL, BudgetSlots
from llm_gateway.host_memory.lease_layout import GRANTED, HOSTS, LEASING, OFFSET, OTHERS, lease_of
from llm_gateway.host_memory.slots import FREED, KEY_HIGH, KEY_LOW, NEVER, Key

AT_ONCE = 64
"""Accounts that are written under one lock."""
READ_AT_ONCE = 1 << 20
"""Bytes of accounts that are read at a time."""
_Item = TypeVar("_Item")


class Account(NamedTuple):
    """An account in the memory: what is spent and held in it, and until when it is needed (milliseconds UTC)."""

    key: Key
    taken: int
    spent: int
    until_ms: int


class LeasedAccounts:
    """The leases in the memory. `locked` takes the accounts' lock, and tells whether it did."""

    def __init__(self, memory: HostMemory, locked: Callable[[], AbstractContextManager[bool]]) -> None:
        self._words: Any = memory.words
        self._descriptor = memory.descriptor
        self._slots = BudgetSlots(memory.words)
        self._locked = locked

    @property
    def is_leasing(self) -> bool:
        """Whether accounts may be used up to what is leased only."""
        return bool(self._words[LEASING])

    @property
    def is_new(self) -> bool:
        """Whether the memory counts nothing yet."""
        return not self._words[LOADED] and not self._words[LEASING]

    def owners(self) -> set[Key]:
        """Return the digests of the journals whose workers hold, or have held, amounts here."""
        return set(owners(self._words))

    def begin(self, hosts: int) -> None:
        """Let workers use nothing but what is leased from now on; and tell how many hosts there are.

        Raises:
            StoreUnavailable: a process that holds the lock does not run.
        """
        words = self._words
        if words[LEASING] and words[HOSTS] == hosts:
            return
        with self._locked() as is_locked:
            self._refuse_unlocked(is_locked)
            words[HOSTS] = hosts
            words[LEASING] = 1
            words[GENERATION] += 1

    def every(self) -> list[Account]:
        """Return the accounts in which anything is spent or held. Pages that were never written are not made."""
        start, end = ACCOUNTS_AT * WORD, (ACCOUNTS_AT + MOST_ACCOUNTS * ACCOUNT_WORDS) * WORD
        found: list[Account] = []
        while start < end:
            try:
                start = os.lseek(self._descriptor, start, os.SEEK_DATA)
            except OSError:  # no data beyond
                break
            if start >= end:
                break
            start -= (start - ACCOUNTS_AT * WORD) % (ACCOUNT_WORDS * WORD)  # a page may begin within an account
            part = array("q")
            part.frombytes(os.pread(self._descriptor, min(READ_AT_ONCE, end - start), start))
            for at in range(0, len(part), ACCOUNT_WORDS):
                if part[at + KEY_LOW] not in (NEVER, FREED) and part[at + TAKEN]:
                    key = Key(part[at + KEY_LOW], part[at + KEY_HIGH])
                    found.append(Account(key, part[at + TAKEN], part[at + SPENT], part[at + UNTIL]))
            start += READ_AT_ONCE
        return found

    def noted(self) -> dict[Key, int]:
        """Return what is spent in the accounts in which workers have noted some of it that is not counted there yet.

        Raises:
            StoreUnavailable: a process that holds the lock does not run.
        """
        words = self._words
        with self._locked() as is_locked:
            self._refuse_unlocked(is_locked)
            return {
                Key(words[at + KEY_LOW], words[at + KEY_HIGH]): words[at + SPENT] + amount
                for at, amount in noted_spending(words).items()
            }

    def set_offsets(self, offsets: Mapping[Key, int]) -> None:
        """Write what accounts had counted as spent before the host leased. Needs `begin`; nothing is granted yet.

        Raises:
            StoreUnavailable: a process that holds the lock does not run.
        """
        for part in _parts(offsets.items()):
            with self._locked() as is_locked:
                self._refuse_unlocked(is_locked)
                for key, offset in part:
                    at = self._slots.find(key)
                    if at is not None:
                        self._words[lease_of(at) + OFFSET] = offset

    def set_granted(self, granted: Iterable[tuple[Key, int, int]]) -> bool:
        """Write what is granted in accounts (key, amount, needed until). Returns False if one has no place.

        Raises:
            StoreUnavailable: a process that holds the lock does not run.
        """
        words, now_ms, has_all = self._words, wall_clock.now_ms(), True
        for part in _parts(granted):
            with self._locked() as is_locked:
                self._refuse_unlocked(is_locked)
                for key, amount, until_ms in part:
                    at = self._slots.find(key)
                    if at is None and amount:
                        at = self._slots.claim(key, now_ms, until_ms, carried=NOT_CARRIED)
                    if at is not None:
                        words[lease_of(at) + GRANTED] = amount
                    has_all &= at is not None or not amount
        return has_all

    def amounts(self, key: Key) -> tuple[int, int]:
        """Return what is spent in an account since the host leases, and what is held in it."""
        at, words = self._slots.find(key), self._words
        if at is None:
            return 0, 0
        spent = words[at + SPENT]
        return spent - words[lease_of(at) + OFFSET], max(0, words[at + TAKEN] - spent)

    def granted(self, key: Key) -> int:
        """Return what is granted in an account."""
        at = self._slots.find(key)
        return 0 if at is None else int(self._words[lease_of(at) + GRANTED])

    def give_back(self, keys: Iterable[Key]) -> dict[Key, int]:
        """Take back what is granted in accounts and neither spent nor held. Returns what stays granted, where less.

        Raises:
            StoreUnavailable: a process that holds the lock does not run.
        """
        words, left = self._words, dict[Key, int]()
        for part in _parts(keys):
            with self._locked() as is_locked:
                self._refuse_unlocked(is_locked)
                for key in part:
                    at = self._slots.find(key)
                    if at is None:
                        left[key] = 0
                        continue
                    lease = lease_of(at)
                    kept = max(0, words[at + TAKEN] - words[lease + OFFSET])
                    if kept < words[lease + GRANTED]:
                        words[lease + GRANTED] = left[key] = kept
        return left

    def show(self, key: Key, spent: int, used: int) -> None:
        """Note what is spent of an account by all hosts, of which this one's stored records have used `used`."""
        with self._locked() as is_locked:
            at = self._slots.find(key) if is_locked else None
            if at is not None:
                lease = lease_of(at)
                self._words[lease + OTHERS] = max(0, spent - self._words[lease + OFFSET] - used)

    @staticmethod
    def _refuse_unlocked(is_locked: bool) -> None:
        if not is_locked:
            raise StoreUnavailable("The budgets' accounts are locked by a process that does not run.", retry_after_s=1)


def _parts(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    rest = iter(items)
    while part := list(islice(rest, AT_ONCE)):
        yield part

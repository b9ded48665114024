"""Accounts of budgets in the memory that all processes of a host share: amounts held for requests, and amounts spent.

    hold ── fits into all accounts ──▶ held in all ── settle ──▶ spent counted, released
      └── one is full ──▶ nothing is held, and the first full account is named

An amount has no unit here. All accounts of a request change under one lock. Stores are in an order of which each prefix
counts too much: rows before sums when amounts are held; what was spent, then rows, then sums when they are released.
Amounts that cannot be released, since a process that holds the lock does not run, are released by a later call.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

from llm_gateway.host_memory import HOLD_ROW_WORDS, HOLD_ROWS, HOLDER_WORDS, HOLDERS_AT, HostMemory
from llm_gateway.host_memory.budget_holds import (
    HOLDER_SIZE,
    ROW_ACCOUNT,
    ROW_GAP,
    ROW_HELD,
    ROWS_USED,
    claim_place,
    find_place,
    recompute_sums,
)
from llm_gateway.host_memory.budget_lock import DIRTY, BudgetLock
from llm_gateway.host_memory.budget_slots import CARRIED, GAP, HELD, NOT_CARRIED, SPENT, BudgetSlots
from llm_gateway.host_memory.slots import key_of

NO_LIMIT = 2**62


class AccountPlace:
    """An account of one period as this process knows it: its name, its slot and row, and what this process holds.

    `until_ms`: the time until which the account is needed. `carried` returns what the period before left, given what
    was spent in the account `before`; without it nothing is carried over.
    """

    __slots__ = ("at", "before", "carried", "gap", "held", "key", "low", "row", "until_ms")

    def __init__(
        self,
        name: str,
        until_ms: int,
        before: str | None = None,
        carried: Callable[[int], int] | None = None,
    ) -> None:
        self.key = key_of(name)
        self.low = self.key.low
        self.until_ms = until_ms
        self.before = None if before is None else key_of(before)
        self.carried = carried
        self.at = self.row = self.held = self.gap = 0


Wanted: TypeAlias = tuple[AccountPlace, int, int, int, int]
"""An amount to hold in an account: what is held, by how much the request can cost more than that (its gap), the limit
without what was carried over, and the overdraft: the most that all gaps in flight may come to, unless nothing else is
in flight. Tuples, since a request makes eight of them."""

Used: TypeAlias = tuple[Sequence[Wanted], Sequence[int]]
"""Amounts that were held, and what was spent in each of their accounts."""


class Full(NamedTuple):
    """The first account, by its number, in which a request has no room, and the amounts in it.

    `is_used_up`: it would have no room either if nothing else were held.
    """

    number: int
    is_used_up: bool
    limit: int
    spent: int
    held: int


class NoRoom(Exception):
    """The memory has no room for another account, or for another holder of amounts."""


class BudgetAccounts:
    """The accounts, as one worker uses them from one thread.

    Args:
        memory: shared by the processes of the host.
        owner: name of the worker's journal; no other holder has it.
        clock_ms: the time of day in milliseconds.
    """

    def __init__(self, memory: HostMemory, owner: str, clock_ms: Callable[[], int]) -> None:
        self._memory = memory
        self._words: Any = memory.words
        self._owner = key_of(owner)
        self._clock_ms = clock_ms
        self._slots = BudgetSlots(memory.words)
        self._lock = BudgetLock(memory, None, self._repair)
        self._first_row = 0
        self._rows: dict[int, AccountPlace] = {}
        """Rows in use, in the order of their last use, if there are many."""
        self._unused: list[int] = []
        self._late: list[Used] = []
        with suppress(NoRoom):  # it may be gone when a budget needs it
            self._join()

    def hold(self, wanted: Sequence[Wanted]) -> Full | bool:
        """Hold all of these amounts, or none. Returns True if they are held, and False if the accounts are locked.

        Raises:
            NoRoom: the memory has no room for one of the accounts.
        """
        if not self._enter():
            return False
        words = self._words
        try:
            for number, (place, held, gap, limit, overdraft) in enumerate(wanted):
                at = place.at
                if words[at] != place.low:
                    at = self._locate(place, wanted)
                most = limit if place.carried is None else limit + words[at + CARRIED]
                spent, in_flight = words[at + SPENT], words[at + HELD]
                if spent + in_flight + held > most or (
                    gap and in_flight and words[at + GAP] + gap > overdraft  # one at a time
                ):
                    return Full(number, spent + held > most, most, spent, in_flight)
            words[DIRTY] = 1
            for place, held, gap, _, _ in wanted:
                at, row = place.at, place.row
                place.held = own = place.held + held
                words[row + ROW_HELD] = own
                words[at + HELD] += held
                if gap:
                    place.gap = own = place.gap + gap
                    words[row + ROW_GAP] = own
                    words[at + GAP] += gap
            words[DIRTY] = 0
            return True
        finally:
            self._lock.release()

    def settle(self, used: Sequence[Used]) -> None:
        """Release amounts, and count what was spent. Must not wait."""
        if not self._enter():
            self._late += used
            return
        try:
            self._settle(used)
        finally:
            self._lock.release()

    def amounts(self, place: AccountPlace) -> tuple[int, int, int]:
        """Return what an account has spent, what is held in it, and what was carried over. Takes no lock."""
        words, at = self._words, place.at
        if not at or words[at] != place.low:
            return 0, 0, 0
        carried = words[at + CARRIED]
        return words[at + SPENT], words[at + HELD], max(0, carried)

    def close(self) -> None:
        """Carry out what is late. The place is freed once the journal of this process is in the database."""
        if self._late and self._enter():
            self._lock.release()

    def _settle(self, used: Sequence[Used]) -> None:
        words = self._words
        for wanted, spent in used:
            for row, amount in zip(wanted, spent, strict=True):
                if amount:
                    at = row[0].at if row[1] else self._slot(row[0])  # another account may have got it meanwhile
                    if at is not None:
                        words[at + SPENT] += amount
        words[DIRTY] = 1
        for wanted, _ in used:
            for place, held, gap, _, _ in wanted:
                if held:
                    place.held = own = place.held - held
                    words[place.row + ROW_HELD] = own
                    words[place.at + HELD] -= held
                if gap:
                    place.gap = own = place.gap - gap
                    words[place.row + ROW_GAP] = own
                    words[place.at + GAP] -= gap
        words[DIRTY] = 0

    def _enter(self) -> bool:
        """Take the lock, and carry out what is late."""
        if not self._first_row and not self._join():
            return False
        if not self._lock.acquire():
            return False
        if self._late:
            late, self._late = self._late, []
            self._settle(late)
        return True

    def _join(self) -> bool:
        """Take a place among the holders.

        Returns False if the accounts are locked.

        Raises:
            NoRoom: all places are taken, by workers that have died and are not cleared yet.
        """
        if not self._lock.acquire():
            return False
        try:
            number = find_place(self._words, self._owner)
            if number is None:
                number = claim_place(self._words, self._owner)
            self._lock.elect()
        finally:
            self._lock.release()
        if number is None:
            raise NoRoom
        self._lock = BudgetLock(self._memory, number, self._repair)
        self._used_at = HOLDERS_AT + number * HOLDER_SIZE + ROWS_USED
        self._first_row = HOLDERS_AT + number * HOLDER_SIZE + HOLDER_WORDS
        return True

    def _locate(self, place: AccountPlace, wanted: Sequence[Wanted]) -> int:
        """Find or make the account's slot, and a row of this process for it; those of `wanted` stay.

        Raises:
            NoRoom: there is no room for it.
        """
        at = self._slot(place, {row[0].at for row in wanted})
        if at is None:
            raise NoRoom
        if not place.row:
            place.row = self._row(wanted)
            self._rows[place.row] = place
        place.at = self._words[place.row + ROW_ACCOUNT] = at
        return at

    def _slot(self, place: AccountPlace, kept: Collection[int] = ()) -> int | None:
        """Find or make the account's slot, but not in the place of `kept` ones; None if there is no room for it."""
        at = self._slots.find(place.key)
        if place.carried is None or place.before is None:
            return at or self._slots.claim(place.key, self._clock_ms(), place.until_ms, kept=kept)
        if at is not None and self._words[at + CARRIED] != NOT_CARRIED:
            return at
        before = self._slots.find(place.before)
        carried = place.carried(0 if before is None else self._words[before + SPENT])
        if at is None:
            return self._slots.claim(place.key, self._clock_ms(), place.until_ms, carried=carried, kept=kept)
        self._words[at + CARRIED] = carried  # made before its budget carried anything over
        return at

    def _row(self, wanted: Sequence[Wanted]) -> int:
        """Return a row for another account.

        Raises:
            NoRoom: this process holds amounts in as many accounts as it has rows.
        """
        if self._unused:
            return self._unused.pop()
        used = self._words[self._used_at]
        if used < HOLD_ROWS:
            row: int = self._first_row + used * HOLD_ROW_WORDS
            self._words[row + ROW_HELD] = self._words[row + ROW_GAP] = 0
            self._words[self._used_at] = used + 1
            return row
        self._free_rows({row[0].row for row in wanted})
        if not self._unused:
            raise NoRoom
        return self._unused.pop()

    def _free_rows(self, kept: set[int]) -> None:
        """Take the rows of accounts in which nothing is held, but those that are `kept`."""
        for row, place in list(self._rows.items()):
            if not place.held and not place.gap and row not in kept:
                place.row = place.at = 0  # no account is at 0, so that it is located again
                del self._rows[row]
                self._unused.append(row)

    def _repair(self) -> None:
        recompute_sums(self._words)

"""Accounts of budgets in the memory that all processes of a host share: amounts held for requests, and amounts spent.

    hold ── fits into all accounts ──▶ held in all ── settle ──▶ spent counted, released
      └── one is full ──▶ nothing is held, and the first full account is named

An amount has no unit here. All accounts of a request change under one lock, the words of each in an order of which each
prefix counts too much: rows before sums when amounts are held; what was spent, then rows, then sums when they are
released. Sums that a killed process left behind are computed again by the next one that gets the lock.
Amounts that cannot be released, since a process that holds the lock does not run, are released by a later call.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

from llm_gateway.host_memory import HOLD_ROW_WORDS, HOLD_ROWS, HOLDER_WORDS, HOLDERS_AT, HostMemory
from llm_gateway.host_memory.budget_holds import (
    HOLDER_SIZE,
    NOWHERE,
    ROW_ACCOUNT,
    ROW_GAP,
    ROW_HELD,
    ROWS_USED,
    claim_place,
    find_place,
    recompute_sums,
)
from llm_gateway.host_memory.budget_slots import CARRIED, GAP, GENERATION, NOT_CARRIED, SPENT, TAKEN, BudgetSlots
from llm_gateway.host_memory.lease_layout import GRANTED, HOSTS, LEASING, OFFSET, OTHERS, lease_of
from llm_gateway.host_memory.lock import BUDGETS, HostLock
from llm_gateway.host_memory.slots import key_of

NO_LIMIT = 2**62
_UNKNOWN = -1
"""Generation of a group whose accounts must be looked for."""


class AccountPlace:
    """An account of one period as this process knows it: its name, its slot and row, and what this process holds.

    `until_ms`: the time until which the account is needed. `carried` returns what the period before left, given what
    was spent in the account `before`; without it nothing is carried over. `spent`, `taken` and `row` are words.
    """

    __slots__ = ("at", "before", "carried", "gap", "held", "key", "low", "row", "spent", "taken", "until_ms")

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
        self.at = self.spent = self.taken = self.row = self.held = self.gap = 0

    def put(self, at: int) -> None:
        """Note where the account's slot is."""
        self.at, self.spent, self.taken = at, at + SPENT, at + TAKEN


class AccountGroup:
    """Accounts in which amounts are held together.

    Args:
        places: the accounts, each once.
        limits: the most that may be spent and held in each, without what was carried over.
        overdrafts: the most that all gaps in flight may come to in each, unless nothing else is in flight. A gap is by
            how much a request can cost more than what is held for it.
    """

    __slots__ = ("generation", "limits", "overdrafts", "places", "shares", "varies")

    def __init__(self, places: Sequence[AccountPlace], limits: Sequence[int], overdrafts: Sequence[int]) -> None:
        self.places = tuple(places)
        self.limits = tuple(limits)
        self.overdrafts = tuple(overdrafts)
        self.varies = False
        """Whether limits depend on the memory: something is carried over, or the host leases. Set once located."""
        self.shares = self.overdrafts
        """This host's shares of the overdrafts."""
        self.generation = _UNKNOWN


Used: TypeAlias = tuple[AccountGroup, Sequence[int], Sequence[int] | None, Sequence[int]]
"""What was held in each account of a group, the gaps, and what was spent in each."""


class Full(NamedTuple):
    """The first account, by its number, in which a request has no room, and the amounts in it.

    `is_used_up`: it would have no room either if nothing else were held. `lacks`: the lease of this host is too small,
    and nothing is known of the limit.
    """

    number: int
    is_used_up: bool
    limit: int
    spent: int
    held: int
    lacks: bool = False


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
        self._words: Any = memory.words
        self._owner = key_of(owner)
        self._clock_ms = clock_ms
        self._slots = BudgetSlots(memory.words)
        self._lock = HostLock(memory, BUDGETS, self._repair)
        self._try_lock, self._release = self._lock.try_lock, self._lock.release
        self._first_row = 0
        self._rows: dict[int, AccountPlace] = {}
        """Rows in use, in the order of their last use, if there are many."""
        self._unused: list[int] = []
        self._late: list[Used] = []
        self.taken: Callable[[AccountPlace], int] = self._taken
        with suppress(NoRoom):  # it may be gone when a budget needs it
            self._join()

    def hold(self, group: AccountGroup, needs: Sequence[int], gaps: Sequence[int] | None = None) -> Full | bool:
        """Hold these amounts in the accounts of a group, or none. Returns True if held, False if they are locked.

        Raises:
            NoRoom: the memory has no room for one of the accounts.
        """
        if not self._first_row and not self._join():
            return False
        code = self._try_lock()
        if code and not self._lock.resolve(code):
            return False
        try:
            words = self._words
            if self._late:
                self._catch_up()
            if words[GENERATION] != group.generation:
                self._locate(group)
            limits = self._limits(group) if group.varies else group.limits
            for place, need, limit in zip(group.places, needs, limits, strict=True):
                at = place.taken
                taken = words[at] + need
                if taken > limit:
                    return self._undo(group, needs, None, place, limit)
                place.held = own = place.held + need
                words[place.row] = own
                words[at] = taken
            return True if gaps is None else self._hold_gaps(group, needs, gaps)
        finally:
            self._release()

    def settle(self, used: Sequence[Used]) -> None:
        """Release amounts, and count what was spent. Must not wait."""
        code = self._try_lock()
        if code and not self._lock.resolve(code):
            self._late += used
            return
        try:
            if self._late:
                self._catch_up()
            for each in used:
                self._settle(*each)
        finally:
            self._release()

    def amounts(self, place: AccountPlace) -> tuple[int, int, int]:
        """Return what an account has spent, what is held in it, and what was carried over. Takes no lock."""
        words, at = self._words, place.at
        if not at or words[at] != place.low:
            return 0, 0, 0
        carried, spent = words[at + CARRIED], words[place.spent]
        others = words[lease_of(at) + OTHERS] if words[LEASING] else 0
        return spent + others, max(0, words[place.taken] - spent), max(0, carried)

    def _taken(self, place: AccountPlace) -> int:
        """Return what an account has spent and what is held in it, of which nothing is held any more if it is old."""
        words, at = self._words, place.at
        taken: int = words[place.taken] if at and words[at] == place.low else 0
        return taken

    def _taken_by_all(self, place: AccountPlace) -> int:
        """Return the same, and what other hosts have spent."""
        words, at = self._words, place.at
        taken: int = words[place.taken] + words[lease_of(at) + OTHERS] if at and words[at] == place.low else 0
        return taken

    def close(self) -> None:
        """Carry out what is late. The place is freed once the journal of this process is in the database."""
        if self._late and self._lock.acquire():
            try:
                self._catch_up()
            finally:
                self._release()

    def _hold_gaps(self, group: AccountGroup, needs: Sequence[int], gaps: Sequence[int]) -> Full | bool:
        """Hold the gaps of a request whose amounts are held; both or none. Requests beyond go one at a time."""
        words = self._words
        for place, need, gap, overdraft in zip(group.places, needs, gaps, group.shares, strict=True):
            if gap:
                at = place.at + GAP
                all_gaps = words[at] + gap
                if all_gaps > overdraft and words[place.taken] - words[place.spent] > need:
                    return self._undo(group, needs, gaps, place, self._limits(group)[group.places.index(place)])
                place.gap = own = place.gap + gap
                words[place.row + ROW_GAP] = own
                words[at] = all_gaps
        return True

    def _undo(
        self, group: AccountGroup, needs: Sequence[int], gaps: Sequence[int] | None, full: AccountPlace, limit: int
    ) -> Full:
        """Release what was held in a group up to an account that is full. Returns what is in that account."""
        number = group.places.index(full)
        held = number if gaps is None else len(group.places)
        done = [*needs[:held], *[0] * (len(needs) - held)]
        done_gaps = None if gaps is None else [*gaps[:number], *[0] * (len(gaps) - number)]
        self._settle(group, done, done_gaps, [0] * len(needs))
        words = self._words
        spent, taken = words[full.spent], words[full.taken]
        if not words[LEASING]:
            return Full(number, spent + needs[number] > limit, limit, spent, taken - spent)
        own = group.limits[number] + (0 if full.carried is None else max(0, words[full.at + CARRIED]))
        others = words[lease_of(full.at) + OTHERS]
        lacks = taken + needs[number] > limit
        return Full(number, spent + others + needs[number] > own, own, spent + others, taken - spent, lacks)

    def _settle(
        self, group: AccountGroup, needs: Sequence[int], gaps: Sequence[int] | None, spent: Sequence[int]
    ) -> None:
        words = self._words
        if words[GENERATION] != group.generation:
            self._find_again(group)
        for place, held, cost in zip(group.places, needs, spent, strict=True):
            if held:
                words[place.spent] += cost
                place.held = own = place.held - held
                words[place.row] = own
                words[place.taken] += cost - held
            elif cost:
                words[place.taken] += cost
                words[place.spent] += cost
        if gaps is not None:
            for place, gap in zip(group.places, gaps, strict=True):
                if gap:
                    place.gap = own = place.gap - gap
                    words[place.row + ROW_GAP] = own
                    words[place.at + GAP] -= gap

    def _catch_up(self) -> None:
        late, self._late = self._late, []
        for each in late:
            self._settle(*each)

    def _limits(self, group: AccountGroup) -> list[int]:
        words = self._words
        if words[LEASING]:
            leases = [lease_of(place.at) for place in group.places]
            return [
                limit if limit >= NO_LIMIT else words[lease + GRANTED] + words[lease + OFFSET]
                for lease, limit in zip(leases, group.limits, strict=True)
            ]
        return [
            limit if place.carried is None else limit + words[place.at + CARRIED]
            for place, limit in zip(group.places, group.limits, strict=True)
        ]

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
        finally:
            self._release()
        if number is None:
            raise NoRoom
        self._used_at = HOLDERS_AT + number * HOLDER_SIZE + ROWS_USED
        self._first_row = HOLDERS_AT + number * HOLDER_SIZE + HOLDER_WORDS
        return True

    def _locate(self, group: AccountGroup) -> None:
        """Find or make the slots of a group's accounts, and rows of this process for them.

        Raises:
            NoRoom: there is no room for one of them.
        """
        words, kept = self._words, {place.at for place in group.places}
        rows = {place.row for place in group.places}
        for place in group.places:
            if words[place.at] != place.low or not place.row:
                at = self._slot(place, kept)
                if at is None:
                    raise NoRoom
                if not place.row:
                    place.row = self._row(rows)
                    self._rows[place.row] = place
                    rows.add(place.row)
                place.put(at)
                kept.add(at)
                words[place.row + ROW_ACCOUNT] = at
        group.varies = bool(words[LEASING]) or any(place.carried is not None for place in group.places)
        if words[LEASING]:
            self.taken, hosts = self._taken_by_all, max(1, words[HOSTS])
            group.shares = tuple(each if each >= NO_LIMIT else each // hosts for each in group.overdrafts)
        group.generation = words[GENERATION]

    def _find_again(self, group: AccountGroup) -> None:
        """Find the accounts of a group, some of which may have lost the slots in which nothing was held for them."""
        words, kept = self._words, {place.at for place in group.places}
        for place in group.places:
            if words[place.at] != place.low:
                at = self._slot(place, kept)
                place.put(NOWHERE if at is None else at)  # what it spent is in the database all the same
                if place.row:
                    words[place.row + ROW_ACCOUNT] = place.at
                kept.add(place.at)
        group.generation = _UNKNOWN

    def _slot(self, place: AccountPlace, kept: Collection[int] = ()) -> int | None:
        """Find or make the account's slot, but not in the place of `kept` ones; None if there is no room for it."""
        at = self._slots.find(place.key)
        if place.carried is None or place.before is None:
            return at or self._slots.claim(place.key, self._clock_ms(), place.until_ms, kept=kept)
        if at is not None and self._words[at + CARRIED] != NOT_CARRIED:
            return at
        before = self._slots.find(place.before)
        carried = place.carried(0 if before is None else self._words[before + TAKEN])  # what is held may be spent yet
        if at is None:
            return self._slots.claim(place.key, self._clock_ms(), place.until_ms, carried=carried, kept=kept)
        self._words[at + CARRIED] = carried  # made before its budget carried anything over
        return at

    def _row(self, kept: Iterable[int]) -> int:
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
        self._free_rows(kept)
        if not self._unused:
            raise NoRoom
        return self._unused.pop()

    def _free_rows(self, kept: Iterable[int]) -> None:
        """Take the rows of accounts in which nothing is held, but those that are `kept`."""
        for row, place in list(self._rows.items()):
            if not place.held and not place.gap and row not in kept:
                place.row = place.at = 0  # no account is at 0, so that it is located again
                del self._rows[row]
                self._unused.append(row)
        self._words[GENERATION] += 1  # all groups look for their accounts again

    def _repair(self) -> None:
        recompute_sums(self._words)

"""Accounts of budgets in the memory that all processes of a host share: amounts held for requests, and amounts spent.

    hold ── fits into all accounts ──▶ held in all ── settle ──▶ spent counted, released
      └── one is full ──▶ nothing is held, and the first full account is named

An amount has no unit here. All accounts of a request change under one lock, the words of each in an order of which each
prefix counts too much: rows before sums when amounts are held; what was spent, then rows, then sums when they are
released. Sums that a killed process left behind are computed again by the next one that gets the lock.
Amounts that cannot be released, since a process that holds the lock does not run, are `late`: a later call releases
them; what was spent is in a row of this process meanwhile, which control counts if it is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any

from llm_gateway.host_memory import HOLD_ROW_WORDS, HOLD_ROWS, HOLDER_WORDS, HOLDERS_AT, HostMemory
from llm_gateway.host_memory.account_group import (
    NO_LIMIT,
    UNKNOWN,
    AccountGroup,
    AccountPlace,
    Entry,
    Full,
    GapEntry,
    Used,
)
from llm_gateway.host_memory.budget_holds import (
    HOLDER_SIZE,
    NOWHERE,
    ROW_ACCOUNT,
    ROW_GAP,
    ROW_HELD,
    ROW_LATE,
    ROWS_USED,
    claim_place,
    find_place,
    recompute_sums,
)
from llm_gateway.host_memory.budget_slots import CARRIED, GENERATION, NOT_CARRIED, TAKEN, BudgetSlots
from llm_gateway.host_memory.lease_layout import GRANTED, HOSTS, LEASING, OFFSET, OTHERS, lease_of
from llm_gateway.host_memory.lock import BUDGETS, HostLock
from llm_gateway.host_memory.slots import key_of


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
        self.late: list[Used] = []
        """What is to be released and counted by the next call that gets the lock."""
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
            if self.late:
                self._catch_up()
            if words[GENERATION] != group.generation:
                self._locate(group)
            entries = group.with_limits(self._limits(group)) if group.varies else group.entries
            for kind, at, _, row, place, limit in entries:
                need = needs[kind]
                taken = words[at] + need
                if taken > limit:
                    return self._undo(group, needs, None, place, limit)
                place.held = own = place.held + need
                words[row] = own
                words[at] = taken
            return True if gaps is None else self._hold_gaps(group, needs, gaps)
        finally:
            self._release()

    def hold_more(self, group: AccountGroup, more: Sequence[int]) -> bool:
        """Hold so much more in the accounts of a group, or less, and count what is noted there as spent.

        Returns False if it does not fit into one of them, or they are locked or have other places: nothing is changed.
        """
        code = self._try_lock()
        if code and not self._lock.resolve(code):
            return False
        try:
            words = self._words
            if self.late:
                self._catch_up()
            if words[GENERATION] != group.generation:
                if max(more) > 0:
                    return False
                self._find_again(group)
            entries = group.with_limits(self._limits(group)) if group.varies else group.entries
            for kind, at, _, _, _, limit in entries:
                if more[kind] > 0 and words[at] + more[kind] > limit:
                    return False
            for kind, at, spent_at, row, place, _ in entries:
                if row:  # else nothing is held or noted there
                    spent = place.late
                    words[spent_at] += spent
                    place.late = words[row + ROW_LATE] = 0
                    place.held = own = place.held + more[kind] - spent
                    words[row] = own
                    words[at] += more[kind]
            return True
        finally:
            self._release()

    def note_spent(self, group: AccountGroup, spent: Sequence[int]) -> None:
        """Note what was spent of the amounts that are held in a group, in rows of this process. Takes no lock.

        Accounts count it with the next `hold_more`, and control counts it if this process is killed before. More than
        nothing must be held in each of the accounts.
        """
        words = self._words
        for kind, at, place in group.notes:
            place.late = late = place.late + spent[kind]
            words[at] = late

    def settle(
        self, group: AccountGroup, needs: Sequence[int], gaps: Sequence[int] | None, spent: Sequence[int]
    ) -> None:
        """Release what was held in a group, and count what was spent. Must not wait."""
        code = self._try_lock()
        if code and not self._lock.resolve(code):
            self.late.append((group, needs, gaps, spent))
            self._note_late(group, spent)
            return
        try:
            if self.late:
                self._catch_up()
            if self._words[GENERATION] != group.generation:
                self._find_again(group)
            self._release_in(group.entries, needs, spent)
            if gaps is not None:
                self._release_gaps(group.gap_entries, gaps)
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

    def release_late(self) -> bool:
        """Release and count what is late. Returns False if the lock cannot be had within a millisecond."""
        if self.late:
            if not self._lock.acquire():
                return False
            try:
                self._catch_up()
            finally:
                self._release()
        return True

    def _hold_gaps(self, group: AccountGroup, needs: Sequence[int], gaps: Sequence[int]) -> Full | bool:
        """Hold the gaps of a request whose amounts are held; both or none. Requests beyond go one at a time."""
        words = self._words
        for kind, at, row, taken, spent, place, share in group.gap_entries:
            gap = gaps[kind]
            if gap:
                all_gaps = words[at] + gap
                if all_gaps > share and words[taken] - words[spent] > needs[kind]:
                    return self._undo(group, needs, gaps, place, self._limits(group)[group.places.index(place)])
                place.gap = own = place.gap + gap
                words[row] = own
                words[at] = all_gaps
        return True

    def _undo(
        self, group: AccountGroup, needs: Sequence[int], gaps: Sequence[int] | None, full: AccountPlace, limit: int
    ) -> Full:
        """Release what was held in a group up to an account that is full. Returns what is in that account."""
        number = group.places.index(full)
        held = number if gaps is None else len(group.places)
        self._release_in(group.entries[:held], needs, [0] * len(needs))
        if gaps is not None:
            before = group.places[:number]
            self._release_gaps([each for each in group.gap_entries if each[5] in before], gaps)
        words, need = self._words, needs[group.kinds[number]]
        spent, taken = words[full.spent], words[full.taken]
        # A request whose gap is the reason has room once nothing is in flight; what is noted as spent no longer is.
        missing = max(0, taken + need - limit) or taken - spent - words[full.row + ROW_LATE]
        if not words[LEASING]:
            return Full(number, spent + need > limit, limit, spent, taken - spent, missing=missing)
        own = group.limits[number] + (0 if full.carried is None else max(0, words[full.at + CARRIED]))
        others = words[lease_of(full.at) + OTHERS]
        lacks = taken + need > limit
        return Full(number, spent + others + need > own, own, spent + others, taken - spent, lacks, missing)

    def _release_in(self, entries: Sequence[Entry], needs: Sequence[int], spent: Sequence[int]) -> None:
        words = self._words
        for kind, taken_at, spent_at, row, place, _ in entries:
            held, cost = needs[kind], spent[kind]
            if held:
                words[spent_at] += cost
                place.held = own = place.held - held
                words[row] = own
                if cost != held:
                    words[taken_at] += cost - held
            elif cost:
                words[taken_at] += cost
                words[spent_at] += cost

    def _release_gaps(self, entries: Sequence[GapEntry], gaps: Sequence[int]) -> None:
        words = self._words
        for kind, at, row, _, _, place, _ in entries:
            gap = gaps[kind]
            if gap:
                place.gap = own = place.gap - gap
                words[row] = own
                words[at] -= gap

    def _catch_up(self) -> None:
        late, self.late = self.late, []
        for group, needs, gaps, spent in late:
            if self._words[GENERATION] != group.generation:
                self._find_again(group)
            self._release_in(group.entries, needs, spent)
            if gaps is not None:
                self._release_gaps(group.gap_entries, gaps)
            self._note_late(group, [-each for each in spent])

    def _note_late(self, group: AccountGroup, spent: Sequence[int]) -> None:
        """Note in this process's own rows what was spent: if it is killed before it gets the lock, it is counted there.

        Accounts in which nothing is held may have no row.
        """
        for kind, place in zip(group.kinds, group.places, strict=True):
            if place.row and spent[kind]:
                place.late += spent[kind]
                self._words[place.row + ROW_LATE] = place.late

    def _limits(self, group: AccountGroup) -> list[int]:
        """Return the limits of a group's accounts as of now."""
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
            self.taken = self._taken_by_all
        group.prepare(max(1, words[HOSTS]) if words[LEASING] else 1)
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
        group.prepare(1)
        group.generation = UNKNOWN

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
            self._words[row + ROW_HELD] = self._words[row + ROW_GAP] = self._words[row + ROW_LATE] = 0
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

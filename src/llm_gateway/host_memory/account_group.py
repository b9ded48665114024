"""Places of budgets' accounts in the shared memory, with what this process holds there, and groups changed at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, TypeAlias

from llm_gateway.host_memory.budget_holds import ROW_GAP, ROW_LATE
from llm_gateway.host_memory.budget_slots import GAP, SPENT, TAKEN
from llm_gateway.host_memory.slots import key_of

NO_LIMIT = 2**62
UNKNOWN = -1
"""Generation of a group whose accounts must be looked for."""


class AccountPlace:
    """An account of one period as this process knows it: its name, its slot and row, and what this process holds.

    `until_ms`: the time until which the account is needed. `carried` returns what the period before left, given what
    was spent in the account `before`; without it nothing is carried over. `spent`, `taken` and `row` are words.
    """

    __slots__ = ("at", "before", "carried", "gap", "held", "key", "late", "low", "row", "spent", "taken", "until_ms")

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
        self.at = self.spent = self.taken = self.row = self.held = self.gap = self.late = 0

    def put(self, at: int) -> None:
        """Note where the account's slot is."""
        self.at, self.spent, self.taken = at, at + SPENT, at + TAKEN


Entry: TypeAlias = tuple[int, int, int, int, AccountPlace, int]
"""An account of a group: the index of its amount, its words `taken`, `spent` and `row`, the account, and its limit."""


GapEntry: TypeAlias = tuple[int, int, int, int, int, AccountPlace, int]
"""An account in which gaps are held: the index of its gap, its words `GAP`, `ROW_GAP`, `taken` and `spent`, the
account, and this host's share of its overdraft."""


class AccountGroup:
    """Accounts in which amounts are held together.

    Args:
        places: the accounts, each once.
        limits: the most that may be spent and held in each, without what was carried over.
        overdrafts: the most that all gaps in flight may come to in each, unless nothing else is in flight. A gap is by
            how much a request can cost more than what is held for it.
        kinds: for each account, the index of its own among the amounts of a request; by default each has one in turn.
        exceeded: the kinds that have gaps; by default all.
    """

    __slots__ = (
        "entries", "exceeded", "gap_entries", "generation", "kinds", "limits", "notes", "overdrafts", "places", "varies"
    )  # fmt: skip

    def __init__(
        self,
        places: Sequence[AccountPlace],
        limits: Sequence[int],
        overdrafts: Sequence[int],
        kinds: Sequence[int] | None = None,
        exceeded: Collection[int] | None = None,
    ) -> None:
        self.places = tuple(places)
        self.limits = tuple(limits)
        self.overdrafts = tuple(overdrafts)
        self.kinds = tuple(range(len(self.places)) if kinds is None else kinds)
        self.exceeded = frozenset(self.kinds if exceeded is None else exceeded)
        self.varies = False
        """Whether limits depend on the memory: something is carried over, or the host leases. Set once located."""
        self.generation = UNKNOWN
        self.entries: tuple[Entry, ...] = ()
        """The accounts as of this generation, made ready to be changed in one pass."""
        self.gap_entries: tuple[GapEntry, ...] = ()
        """Those in which gaps can be held."""
        self.notes: tuple[tuple[int, int, AccountPlace], ...] = ()
        """For each account the index of its amount, its word `ROW_LATE`, and the account."""

    def prepare(self, hosts: int) -> None:
        """Make the entries from where the accounts are now. `hosts` share their overdrafts."""
        self.entries = self.with_limits(self.limits)
        self.notes = tuple((kind, row + ROW_LATE, place) for kind, _, _, row, place, _ in self.entries)
        shares = [each if each >= NO_LIMIT else each // hosts for each in self.overdrafts]
        each = zip(self.kinds, self.places, shares, strict=True)
        self.gap_entries = tuple(
            (kind, place.at + GAP, place.row + ROW_GAP, place.taken, place.spent, place, share)
            for kind, place, share in each
            if kind in self.exceeded
        )

    def with_limits(self, limits: Sequence[int]) -> tuple[Entry, ...]:
        """Return the entries with these limits."""
        each = zip(self.kinds, self.places, limits, strict=True)
        return tuple((kind, place.taken, place.spent, place.row, place, limit) for kind, place, limit in each)


Used: TypeAlias = tuple[AccountGroup, Sequence[int], Sequence[int] | None, Sequence[int]]
"""Amounts that were held in a group, gaps, and amounts that were spent, each as `kinds` tells."""


class Full(NamedTuple):
    """The first account, by its number, in which a request has no room, and the amounts in it.

    `is_used_up`: it would have no room either if nothing else were held. `lacks`: the lease of this host is too small,
    and nothing is known of the limit. `missing`: the request has room once so much less is held.
    """

    number: int
    is_used_up: bool
    limit: int
    spent: int
    held: int
    lacks: bool = False
    missing: int = 0

"""The rule by which several hosts share the limit of a budget's account. Pure functions; amounts are in its unit.

    take ── the rest is enough ──▶ granted ── used, and shipped to the database ──▶ spent
     └── too little is left ──▶ recall what others do not hold ──▶ take once more ──▶ refused, if it is still too little

A host may spend what was granted to it. The ledger is the database: it holds the cost of the records of all hosts
(`spent`), and for each host the amount granted to it and the part of it that its stored records have used. Other hosts
cannot spend what is granted but not used yet. So all that is spent, held or on its way to the database stays within
the limit:

    spent + sum over hosts of (granted - used) <= limit

No grant expires: a silent host may go on spending. Only the host itself returns a grant, or a later process that has
its journal, or an operator who knows that the host is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

PARTS = 4
"""A host takes one part of this many of its share of what is left: few trips at first, and little to recall later."""


class Lease(NamedTuple):
    """Amount granted to a host in an account, and how much of it its stored records have used, since it joined."""

    granted: int = 0
    used: int = 0

    @property
    def outstanding(self) -> int:
        """The part that no record has used yet."""
        return max(0, self.granted - self.used)


class Wish(NamedTuple):
    """Amounts that a host wants granted in all (`Lease.granted`): the least for one request, and for all that wait."""

    least: int
    most: int


def left_of(limit: int, spent: int, leases: Iterable[Lease]) -> int:
    """Return what is neither spent nor granted; negative if a limit was lowered."""
    return limit - spent - sum(lease.outstanding for lease in leases)


def take(own: Lease, left: int, wish: Wish, hosts: int) -> int | None:
    """Return what is granted to a host from now on; None if too little is left for a single request.

    `hosts` is the number of living hosts, this one included. What records have used is paid for already, also if it
    was more than what was granted.
    """
    base = max(own)
    need = wish.least - base
    if need <= 0:
        return base
    if need > left:
        return None
    return base + min(left, max(wish.most - base, need, left // (PARTS * max(1, hosts))))

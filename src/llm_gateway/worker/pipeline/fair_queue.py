"""A queue with a lane per customer, served by deficit round robin over the requests' costs. No I/O, no clock.

Deficit round robin gives every customer with waiting requests the same amount of cost in each round. With a quantum as
small as one token, the customer comes next whose oldest request is paid for first, so the queue keeps, per lane, the
level at which its last request was paid for. A lane that was empty begins at the level of the last request served:
no customer saves up turns, and no waiting request is overtaken by two requests of another lane of the same cost.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Ahead(NamedTuple):
    """The requests, and their cost, that will be served before another one that joins now."""

    requests: int
    cost: int


class _Lane(Generic[T]):
    """The waiting requests of one customer, oldest first, each with its cost; paid for up to `level`."""

    __slots__ = ("cost", "items", "level")

    def __init__(self, level: int) -> None:
        self.level = level
        self.items: dict[T, int] = {}
        self.cost = 0


class FairQueue(Generic[T]):
    """Waiting requests, by customer. A request is any hashable object; costs are above 0."""

    __slots__ = ("_lanes", "_level", "count")

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane[T]] = {}
        self._level = 0
        self.count = 0

    def waiting(self, customer: str) -> int:
        """Return the number of the customer's waiting requests."""
        lane = self._lanes.get(customer)
        return 0 if lane is None else len(lane.items)

    def add(self, customer: str, item: T, cost: int) -> None:
        """Add a request at the end of its customer's lane."""
        lane = self._lanes.get(customer)
        if lane is None:
            lane = self._lanes[customer] = _Lane(self._level)
        lane.items[item] = cost
        lane.cost += cost
        self.count += 1

    def first(self) -> T | None:
        """Return the request whose turn it is; None if none waits. It stays in the queue until `remove`."""
        best: T | None = None
        least = -1
        for lane in self._lanes.values():
            item, cost = next(iter(lane.items.items()))
            if least < 0 or lane.level + cost < least:
                best, least = item, lane.level + cost
        return best

    def remove(self, customer: str, item: T, *, is_served: bool) -> None:
        """Remove a request: it was served, which counts for its customer, or it no longer waits."""
        lane = self._lanes.get(customer)
        if lane is None or item not in lane.items:
            return
        cost = lane.items.pop(item)
        lane.cost -= cost
        self.count -= 1
        if is_served:
            lane.level += cost
            self._level = max(self._level, lane.level)
        del self._lanes[customer]
        if lane.items:
            self._lanes[customer] = lane  # at the end, so that others come first where levels are equal

    def ahead_of(self, customer: str, cost: int) -> Ahead:
        """Return what would be served before a request of this cost that joins now, if no other came."""
        own = self._lanes.get(customer)
        paid = (self._level if own is None else own.level + own.cost) + cost
        requests, total = (0, 0) if own is None else (len(own.items), own.cost)
        for lane in self._lanes.values():
            if lane is own or lane.level >= paid:
                continue
            share = min(lane.cost, paid - lane.level)
            total += share
            requests += len(lane.items) if share == lane.cost else -(-len(lane.items) * share // lane.cost)
        return Ahead(requests, total)

    def items(self) -> list[T]:
        """Return all waiting requests."""
        return [item for lane in self._lanes.values() for item in lane.items]

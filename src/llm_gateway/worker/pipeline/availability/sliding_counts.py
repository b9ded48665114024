"""Counters over a sliding window of the last ten seconds."""

from __future__ import annotations

WINDOW_S = 10


class SlidingCounts:
    """Two counters over the current second and the nine before it: all events, and the marked ones among them."""

    __slots__ = ("all", "marked", "second", "sum_all", "sum_marked")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Set both counters to 0."""
        self.second = 0
        self.all = [0] * WINDOW_S
        self.marked = [0] * WINDOW_S
        self.sum_all = 0
        self.sum_marked = 0

    def advance(self, now: float) -> int:
        """Drop the seconds that left the window. Returns the index of the current second.

        `now` is in seconds. If it steps back, events count in the newest second seen.
        """
        second = int(now)
        if second > self.second:
            for passed in range(max(self.second, second - WINDOW_S) + 1, second + 1):
                index = passed % WINDOW_S
                self.sum_all -= self.all[index]
                self.sum_marked -= self.marked[index]
                self.all[index] = self.marked[index] = 0
            self.second = second
        return self.second % WINDOW_S

    def count(self, now: float) -> None:
        """Count one event."""
        self.all[self.advance(now)] += 1
        self.sum_all += 1

    def per_second(self, now: float) -> float:
        """Return the events that are not marked, per second since the oldest event in the window."""
        self.advance(now)
        for second in range(self.second - WINDOW_S + 1, self.second + 1):
            if self.all[second % WINDOW_S]:
                return (self.sum_all - self.sum_marked) / (self.second + 1 - second)
        return 0.0

    def mark(self, now: float) -> None:
        """Mark one event; `count` it as well."""
        self.marked[self.advance(now)] += 1
        self.sum_marked += 1

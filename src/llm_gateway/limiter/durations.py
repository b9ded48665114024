"""Durations of recent calls, which tell when the open ones will probably be over."""

from __future__ import annotations

SECONDS = 61
"""Durations from here on count as this long: the reservation has left the window by then."""
HALVE_AT = 128
"""Calls after which all counts are halved, so that recent calls weigh more."""
USUAL_S = 2.0
"""Remaining time in seconds that is assumed before any call has ended."""
LEAST_S = 1.0
"""Least remaining time in seconds: durations are known to the second only."""


class Durations:
    """Durations of recent calls, counted by whole seconds."""

    __slots__ = ("_counts", "_total")

    def __init__(self) -> None:
        self._counts = [0] * SECONDS
        self._total = 0

    def add(self, seconds: float) -> None:
        """Count a call that took this long."""
        second = int(seconds)
        if not 0 <= second < SECONDS:
            second = SECONDS - 1 if second > 0 else 0
        self._counts[second] += 1
        total = self._total = self._total + 1
        if total >= HALVE_AT:
            self._counts = [count // 2 for count in self._counts]
            self._total = sum(self._counts)

    def remaining_s(self, age_s: float) -> float:
        """Return the time by which nine of ten calls that lasted `age_s` seconds so far are over; at least 1 s."""
        if not self._total:
            return max(LEAST_S, USUAL_S - age_s)
        first = min(max(int(age_s), 0), SECONDS - 1)
        longer = self._counts[first:]
        seen, total = 0, sum(longer)
        for more, count in enumerate(longer):
            seen += count
            if count and seen * 10 >= total * 9:
                return max(LEAST_S, first + more + 1 - age_s)
        return LEAST_S

"""Durations of recent calls, which tell when the open ones will probably be over."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence

CALLS = 64
"""Calls that are remembered: the last ones."""
SECONDS = 61
"""Durations from here on count as this long: the reservation has left the window by then."""
USUAL_S = 2.0
"""Remaining time in seconds that is assumed before any call has ended."""
LEAST_S = 1.0
"""Least remaining time in seconds: durations are known to the second only."""


class Durations:
    """Durations of recent calls. `add` notes one, in whole seconds."""

    __slots__ = ("_recent", "add")

    def __init__(self) -> None:
        self._recent: deque[int] = deque(maxlen=CALLS)
        self.add: Callable[[int], None] = self._recent.append

    def sorted(self) -> list[int]:
        """Return the durations, shortest first."""
        return sorted(self._recent)


def remaining_s(durations: Sequence[int], age_s: float) -> float:
    """Return the time by which nine of ten calls that lasted `age_s` seconds so far are over; at least 1 s.

    `durations` are those of recent calls, shortest first.
    """
    if not durations:
        return max(LEAST_S, USUAL_S - age_s)
    first = bisect_left(durations, min(int(age_s), SECONDS - 1))
    longer = len(durations) - first
    if not longer:
        return LEAST_S
    return max(LEAST_S, min(durations[first - (-longer * 9 // 10) - 1], SECONDS - 1) + 1 - age_s)

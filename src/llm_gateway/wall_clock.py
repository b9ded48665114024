"""The time of day, by which usage gets its hour, budgets their periods, and keys and sessions their ends.

Hosts that share a database must agree on it, so it is that of the database's server, whatever their own clocks say.
Control compares its clock with the server's at each beat (`control/hosts.py`), and tells workers the difference
(`channel/messages.py`). Each process has one clock, `CLOCK`; without a shared database it is the system's.

What the world outside dates or checks is compared with the system's clock (`time.time`), which is set by the world's:
tokens of an identity provider, `Retry-After`, the signatures of messages.

A difference of less than `TOLERATED_MS` is left alone: then time runs as the system's does, without steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo

TOLERATED_MS = 1000
"""Difference from the database's clock, in milliseconds, up to which nothing is corrected."""


class WallClock:
    """A clock that can be corrected. `time_ns` returns the system's nanoseconds since 1970."""

    def __init__(self, time_ns: Callable[[], int] = time.time_ns) -> None:
        self._time_ns = time_ns
        self._offset_ns = 0

    @property
    def offset_ms(self) -> int:
        """Milliseconds that are added to the system's time."""
        return self._offset_ns // 1_000_000

    def time_ns(self) -> int:
        """Return nanoseconds since 1970 (UTC)."""
        return self._time_ns() + self._offset_ns

    def now_ms(self) -> int:
        """Return milliseconds since 1970 (UTC)."""
        return (self._time_ns() + self._offset_ns) // 1_000_000

    def now_s(self) -> float:
        """Return seconds since 1970 (UTC)."""
        return self.time_ns() / 1e9

    def now(self, zone: tzinfo = UTC) -> datetime:
        """Return the time of day in a time zone."""
        return datetime.fromtimestamp(self.now_s(), zone)

    def correct(self, offset_ms: int) -> None:
        """Add `offset_ms` to the system's time from now on."""
        self._offset_ns = offset_ms * 1_000_000

    def compare(self, reference_ms: int, before_ms: int, after_ms: int) -> bool:
        """Follow another clock if this one is certainly wrong by more than `TOLERATED_MS`. Returns whether it was.

        `reference_ms` was read between the moments `before_ms` and `after_ms` of this clock. All are milliseconds.
        """
        if before_ms - TOLERATED_MS <= reference_ms <= after_ms + TOLERATED_MS:
            return False
        self._offset_ns += (reference_ms - (before_ms + after_ms) // 2) * 1_000_000
        return True


CLOCK = WallClock()
"""The clock of this process."""
time_ns, now_ms, now_s, now = CLOCK.time_ns, CLOCK.now_ms, CLOCK.now_s, CLOCK.now

"""Writers whose journals could not be shipped: each is tried again after a pause, and the others do not wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


class FailedWriters:
    """Reasons and pauses of the writers that failed, by their names. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: dict[str, tuple[float, str]] = {}

    def resting(self) -> dict[str, str]:
        """Return the reasons of those that are not tried again yet."""
        now = self._clock()
        return {name: reason for name, (due, reason) in self._due.items() if due > now}

    def note(self, failures: Mapping[str, str], tried: set[str], pause_s: float) -> None:
        """Take over who has failed; those that were `tried` are not tried again for `pause_s` seconds."""
        due = self._clock() + pause_s
        kept = {name: each for name, each in self._due.items() if name in failures and name not in tried}
        self._due = kept | {name: (due, failures[name]) for name in tried}

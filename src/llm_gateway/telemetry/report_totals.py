"""Sums of the metrics of all workers, whose counters never fall: what workers that have ended counted stays in them.

a worker's report ──▶ its last report ──(ended, among the oldest)──▶ base
└──────────────── total ──────────────────┘
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec

from llm_gateway.domain.metric_families import MetricFamily, add_up

KEPT = 64
"""Last reports of workers that are kept apart, so that one of a worker that was only silent is not counted twice."""


class _Saved(msgspec.Struct):
    base: list[MetricFamily] = []
    last: dict[str, list[MetricFamily]] = {}


class ReportTotals:
    """The last report of each worker by its key, which no other worker ever has. Used in one thread.

    Args:
        file: the file that `save` writes, read at once; a damaged one is ignored. None keeps the sums in memory.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._state = _Saved()
        if file is not None:
            try:
                self._state = msgspec.msgpack.decode(file.read_bytes(), type=_Saved)
            except (OSError, msgspec.DecodeError, UnicodeDecodeError):
                self._state = _Saved()

    def update(self, key: str, families: list[MetricFamily]) -> None:
        """Replace the last report of a worker."""
        state = self._state
        state.last.pop(key, None)
        state.last[key] = families  # at the end: the first one is the oldest
        while len(state.last) > KEPT:
            oldest = state.last.pop(next(iter(state.last)))
            state.base = add_up([state.base, _counters(oldest)])

    def last(self, key: str) -> list[MetricFamily]:
        """Return the last report of a worker; an empty list before its first."""
        return self._state.last.get(key, [])

    def total(self, living: Collection[str]) -> list[MetricFamily]:
        """Return the sums: counters of all workers that ever reported, gauges of the living ones only."""
        last = self._state.last.items()
        parts = [families if key in living else _counters(families) for key, families in last]
        return add_up([self._state.base, *parts])

    def save(self) -> None:
        """Write the reports to the file, in one step.

        Raises:
            OSError: the file cannot be written.
        """
        if self._file is None:
            return
        new = self._file.with_name(f".{self._file.name}.new")
        new.write_bytes(msgspec.msgpack.encode(self._state))
        new.replace(self._file)


def _counters(families: list[MetricFamily]) -> list[MetricFamily]:
    return [family for family in families if family.type != "gauge"]

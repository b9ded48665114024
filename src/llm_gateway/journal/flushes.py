"""Callers that wait until everything that the writers have appended so far is in the database: reports, for example."""

from __future__ import annotations

import threading
from collections.abc import Collection
from contextlib import suppress

from llm_gateway.journal.writer_tail import WriterTail


class Flush:
    """A caller that waits until every writer's entries up to its number in `targets` are stored."""

    def __init__(self) -> None:
        self.targets: dict[WriterTail, int] | None = None
        self.has_ended = threading.Event()
        self.is_stored = False


class Flushes:
    """All callers that wait. `wait` is for their threads, the rest for the shipper's, until `end`."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._waiting: list[Flush] = []
        self._has_ended = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def wait(self, timeout_s: float, wake: threading.Event) -> bool:
        """Set `wake`, and wait. Returns False after `timeout_s` seconds, or if the shipper has ended."""
        flush = Flush()
        with self._turn:
            if self._has_ended:
                return False
            self._waiting.append(flush)
        wake.set()
        flush.has_ended.wait(timeout_s)
        with self._turn, suppress(ValueError):  # it has ended
            self._waiting.remove(flush)
        return flush.is_stored

    def without_targets(self) -> list[Flush]:
        """Return those that are new. Call it before writers are looked for, so that every one they know of is found."""
        with self._turn:
            return [flush for flush in self._waiting if flush.targets is None]

    def end_stored(self) -> None:
        """Let those go whose entries are all stored."""
        with self._turn:
            for flush in [*self._waiting]:
                targets = flush.targets
                if targets is not None and all(tail.has_shipped(entries) for tail, entries in targets.items()):
                    self._waiting.remove(flush)
                    flush.is_stored = True
                    flush.has_ended.set()

    def end(self) -> None:
        """Let all go, and those that come later: the shipper has ended."""
        with self._turn:
            self._has_ended = True
            for flush in self._waiting:
                flush.has_ended.set()


def set_targets(flushes: Collection[Flush], tails: Collection[WriterTail]) -> None:
    """Let the flushes wait for all that the writers have appended so far.

    They stay without targets while a writer cannot tell how much that is.

    Raises:
        OSError: a writer's page cannot be read.
    """
    if not flushes:
        return
    targets = {tail: entries for tail in tails if (entries := tail.appended()) is not None}
    if len(targets) == len(tails):
        for flush in flushes:
            flush.targets = targets

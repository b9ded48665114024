"""Ship usage records from the journals of all writers to the database, in a background thread.

It finds the writers' directories in the journal's root, and follows each (`writer_tail.py`): writers of this process
and of others, living and gone. Only one shipper at a time may run on a data directory.

What the writers have written is gathered and stored together: an answer that waits for the database waits for one
transaction, however many writers there are. After a batch that failed with a defect, each writer's records are stored
apart until all of them are. A writer whose journal cannot be shipped pauses by itself, and the others go on.

While the database is down, records wait in the journal's files; memory holds no more than a batch, a chunk of a
journal, and the open requests. Records are stored once by their id, so starting again at the checkpoint counts nothing
twice.

    start() --> shipping -- everything written is stored ------> idle
                 ^ ^ |                                          |
                 | '-+------ 0.3 or 1 s, flush() or commit() ---'
                 |   |
                 |   | StoreUnavailable: keep the position
                 |   v
                 '-- backing off (0.1 s, doubled up to 5 s) or flush()

    a writer: shipped -- any other error: back to its checkpoint --> paused (0.1 s, doubled up to 5 s) or flush()

    stop(): ends once everything written is stored, or at its timeout. Nothing else ends the thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import StoreUnavailable
from llm_gateway.journal.failed_writers import FailedWriters
from llm_gateway.journal.flushes import Flushes, set_targets
from llm_gateway.journal.other_reader import NO_READER, OtherReader
from llm_gateway.journal.record_delivery import Quarantine, RecordDelivery, Sink, quarantine_file
from llm_gateway.journal.segments import Log, find_writers
from llm_gateway.journal.waiting_usage import BatchSize
from llm_gateway.journal.writer_tail import ShippingLag, WriterTail
from llm_gateway.process_setup import schedule_in_background

PAUSE_S, LOADED_PAUSE_S = 0.3, 1.0
"""Seconds between two looks at the journal; the database is at least that far behind. The second: under load.

A batch costs a commit with its sync, and a row of the sums for each customer, however few records it has. Fewer and
larger batches leave the processor and the disk to the workers. A report does not wait for them: it calls `flush`.
"""

LOADED_RECORDS = 128
"""Records of one look from which the pause under load follows: 430 a second to begin it, 128 a second to keep it."""

BACKOFF_S, LONGEST_BACKOFF_S = 0.1, 5.0
"""Seconds before the next try after a failure: first and maximum."""

HASTY_BACKOFF_S = 0.5
"""The same maximum while answers wait for a commit, or the disk is short: the writers look as often for space."""

UNASKED_RECORDS = 200
"""Records that a writer for which no answer waits adds to a transaction for which others wait; its backlog waits."""

STOP_TIMEOUT_S, GRACE_S = 10.0, 1.0
"""Seconds that `stop` ships by default, and seconds beyond for a statement that is still running."""


def pause_after(records: int) -> float:
    """Return the seconds until the next look, after one that moved `records` records."""
    return PAUSE_S if records < LOADED_RECORDS else LOADED_PAUSE_S


class Shipper:
    """Background thread that ships the records of all writers below `root` to `sink` until it is stopped."""

    def __init__(
        self,
        root: Path,
        sink: Sink,
        *,
        log: Log,
        pause: Callable[[], None] = lambda: None,
        ended: Callable[[str], None] = lambda _writer: None,
        other: OtherReader = NO_READER,
        is_awaited: bool = False,
    ) -> None:
        """Prepare the thread without starting it.

        Args:
            root: the journal's directory, with a directory for each writer.
            sink: stores the records.
            log: log of the gateway.
            pause: called between small pieces of work (Throttle).
            ended: called with the name of each writer that has ended, once all of its records are stored.
            other: reads the journals, too.
            is_awaited: answers to clients wait for the thread (`commit`), so that it must not wait for others.
        """
        self._root = root
        self._is_awaited = is_awaited
        quarantine = Quarantine(quarantine_file(root.parent), self._safe_log)
        self._new_tail = partial(WriterTail, quarantine=quarantine, log=self._safe_log, pause=pause, other=other)
        self._delivery = RecordDelivery(sink, quarantine, pause)
        self._size = BatchSize(root)
        self._batch: list[UsageRecord] = []
        self._gathered: dict[str, WriterTail] = {}
        """Writers whose records are in the batch, or were just delivered."""
        self._is_apart = False
        self._log = log
        self._ended = ended
        self._tails: dict[str, WriterTail] = {}
        """In the order in which they are read."""
        self._finished: set[str] = set()
        self._failed_writers = FailedWriters()
        self._wake = threading.Event()
        self._stop_by: float | None = None
        self._backoff = 0.0
        self._reason = ""
        self._moved = 0
        self._shared = threading.Lock()
        self._flushes = Flushes()
        self._asked: dict[str, tuple[int, Callable[[int], None]]] = {}
        self._is_complete = True
        self.is_storing = True
        """False while the database does not store what is shipped."""
        self._thread = threading.Thread(target=self._run, name="journal-shipper", daemon=True)

    def start(self) -> None:
        """Start the thread. Call it once."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """True while the thread runs: records are shipped, at once or as soon as the database answers."""
        return self._thread.is_alive()

    def behind(self) -> ShippingLag:
        """Return how much of the journals is not in the database yet. Thread-safe; reads no file.

        A new writer counts once it is found, within a second. The age counts from the last time that everything of a
        writer was shipped, which is checked at least once a second: the oldest entry may be a second younger.
        """
        with self._shared:
            lags = [tail.lag() for tail in self._tails.values()]
        return ShippingLag(sum(lag.size for lag in lags), max((lag.seconds for lag in lags), default=0.0))

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything that any writer has appended so far is in the database. Thread-safe.

        Returns False after `timeout_s` seconds, or if the shipper has ended.
        """
        return self._flushes.wait(timeout_s, self._wake)

    def commit(self, writer: str, entries: int, then: Callable[[int], None]) -> None:
        """Ship at once, until the first `entries` entries of a writer are in the database. Thread-safe; does not wait.

        `then` is called in the shipper's thread after each commit, with the number of the writer's entries that are
        stored. A later call for the same writer takes the place of this one.
        """
        with self._shared:
            if writer not in self._finished:
                self._asked[writer] = entries, then
        if self.is_storing:  # a database that comes back gets no try for each answer
            self._wake.set()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """Ship the rest and end the thread. Returns True if everything was shipped within `timeout_s` seconds.

        The directories of writers that have closed are deleted.
        """
        self._stop_by = time.monotonic() + timeout_s
        self._wake.set()
        self._thread.join(timeout_s + GRACE_S)
        return self._is_complete and not self._thread.is_alive()

    def _run(self) -> None:
        if not self._is_awaited:
            schedule_in_background()
        is_done = is_shipped = False
        while not is_done:
            is_stopping = self._stop_by is not None
            self._moved = 0
            is_shipped = self._ship()
            pause = self._pause_s(is_shipped=is_shipped)
            if self._stop_by is not None:
                pause = min(pause, self._stop_by - time.monotonic())
            is_done = (is_stopping and is_shipped) or pause <= 0
            if not is_done:
                self._wake.wait(pause)
                self._wake.clear()
        self._end(is_shipped=is_shipped)

    def _pause_s(self, *, is_shipped: bool) -> float:
        if is_shipped or self.is_storing:  # a writer that failed has a pause of its own
            return PAUSE_S if self._is_awaited else pause_after(self._moved)
        return min(self._backoff, HASTY_BACKOFF_S) if self._asked or self._size.is_small else self._backoff

    def _ship(self) -> bool:
        """Ship what the writers have written so far.

        Returns False if some of that failed and must be tried again, or if the time of `stop` is over.
        """
        failures = {} if self._flushes or self._stop_by is not None else self._failed_writers.resting()
        resting = {*failures}
        is_more = True
        while is_more:
            if self._stop_by is not None and time.monotonic() >= self._stop_by:
                return False
            try:
                self._look_for_writers(failures)
                is_more = self._step(failures)
            except StoreUnavailable as error:
                self.is_storing = False
                # The driver's message alone: SQLAlchemy's includes the whole statement.
                cause = getattr(error.__cause__, "orig", None)
                self._failed("warning", error.detail if cause is None else f"{error.detail} ({cause})")
                return False
        self.is_storing = True
        if failures:
            tried = failures.keys() - resting
            if tried:
                self._failed("error", "; ".join(dict.fromkeys(failures.values())))
            self._failed_writers.note(failures, tried, self._backoff)
            return False
        self._is_apart = False
        if self._backoff:
            self._safe_log("usage records are stored again")
        self._backoff = 0.0
        self._reason = ""
        return True

    def _look_for_writers(self, failures: dict[str, str]) -> None:
        """Follow writers that are new, and set the targets of flushes that were requested since the last look.

        If that fails (no descriptor is free, say), it is noted in `failures`, and the writers known so far go on.
        """
        try:
            flushes = self._flushes.without_targets()
            paths = {path.name: path for path in find_writers(self._root)}
            self._finished &= paths.keys()
            with self._shared:
                for name in sorted(paths.keys() - self._tails.keys() - self._finished):
                    self._tails[name] = self._new_tail(paths[name])
                for name in self._asked.keys() - self._tails.keys():  # a writer that is newer asks again
                    del self._asked[name]
            set_targets(flushes, self._tails.values())
        except Exception as error:  # edge: the thread must not end; the next look tries again
            failures[""] = repr(error)

    def _step(self, failures: dict[str, str]) -> bool:
        """Ship up to a batch of each writer whose name is not in `failures`. Returns True if there may be more.

        A writer whose journal cannot be shipped is added to `failures`; the others go on.

        Raises:
            StoreUnavailable: the database does not answer; the next step stores the batch before it reads another.
        """
        is_more = self._store(failures)
        for name, tail in sorted(self._tails.items(), key=lambda each: each[0] not in self._asked):
            if name in failures:
                continue
            room = self._size.records - len(self._batch)
            if self._asked and name not in self._asked:
                room = min(room, UNASKED_RECORDS)
            try:
                self._batch += tail.read(room)
            except Exception as error:  # edge: the thread must not end; it is read again from the checkpoint
                tail.restart()
                failures[name] = repr(error)
                continue
            self._gathered[name] = tail
            is_full, segment = len(self._batch) >= self._size.records, tail.segment
            if is_full or self._is_apart:
                is_more |= self._store(failures)
            if is_full and self._size.is_small:  # then one writer after the other, since a segment is freed as a whole
                if tail.segment > segment and name in self._tails:  # else its journal has ended
                    self._let_others_go_first(name)
                is_more = True  # the writers behind it were not read
                break
        is_more |= self._store(failures)
        self._flushes.end_stored()
        return is_more

    def _let_others_go_first(self, name: str) -> None:
        """Put a writer behind all others: it has freed a segment, which it may have filled again by now."""
        with self._shared:
            self._tails[name] = self._tails.pop(name)

    def _store(self, failures: dict[str, str]) -> bool:
        """Store the batch, and let its writers go on behind it. Returns True if there may be more of them.

        Raises:
            StoreUnavailable: the database does not answer; call again later.
        """
        batch, self._batch = self._batch, []
        size = len(batch)
        self._moved += size
        try:
            self._delivery.add(batch)
            del batch  # so that the delivery frees the records, a few at a time
            self._delivery.run()
            self._size.note(size, is_stored=True)
        except StoreUnavailable:
            for tail in self._gathered.values():
                tail.make_space()
            self._size.note(size, is_stored=False)
            self._delivery.split(self._size.records)
            raise
        except Exception as error:  # edge: as in `_step`
            self._delivery.clear()
            self._is_apart = True
            while self._gathered:
                name, tail = self._gathered.popitem()
                tail.restart()
                failures[name] = repr(error)
        return self._advance(failures)

    def _advance(self, failures: dict[str, str]) -> bool:
        """Let the writers go on whose records are stored. Returns True if there may be more of them."""
        is_more = False
        while self._gathered:
            name, tail = next(iter(self._gathered.items()))
            try:
                is_more |= tail.advance()
                self._answer_commit(name, tail)
                if tail.is_finished:
                    self._forget(name, tail)
            except Exception as error:  # edge: as in `_step`
                tail.restart()
                failures[name] = error.detail if isinstance(error, StoreUnavailable) else repr(error)
            del self._gathered[name]
        return is_more

    def _forget(self, name: str, tail: WriterTail) -> None:
        """Stop following a writer that has ended; its directory is not looked at again if it could not be deleted."""
        self._is_complete &= tail.is_complete()
        self._finished.add(name)
        with self._shared:
            del self._tails[name]
            self._asked.pop(name, None)
            tail.close()
        self._ended(name)

    def _answer_commit(self, name: str, tail: WriterTail) -> None:
        """Tell how far this writer is stored, if its worker has requested a commit."""
        with self._shared:
            entries, then = self._asked.get(name, (0, None))
            if then is not None and tail.shipped >= entries:
                del self._asked[name]
        if then is not None:
            with suppress(RuntimeError):  # its event loop has ended
                then(tail.shipped)

    def _end(self, *, is_shipped: bool) -> None:
        """Close all directories, and end the flushes that wait. `is_shipped`: the last look did not fail."""
        with self._shared:
            self._is_complete &= is_shipped
            for tail in self._tails.values():
                self._is_complete &= tail.is_complete()
                tail.close()
        self._flushes.end()

    def _failed(self, level: str, reason: str) -> None:
        if reason != self._reason:
            self._reason = reason
            self._safe_log("usage records cannot be stored and wait in the journal", level=level, reason=reason)
        self._backoff = min(2 * self._backoff or BACKOFF_S, LONGEST_BACKOFF_S)

    def _safe_log(self, event: str, **fields: Any) -> None:
        with suppress(Exception):  # edge: a log that fails must not end the thread
            self._log(event, **fields)

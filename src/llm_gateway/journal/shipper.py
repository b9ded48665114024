"""Ship usage records from this process's journal to the database, in a background thread.

While the database is down, records wait in the journal's files; memory never holds more than one batch. Records are
stored once by their id, so starting again at the checkpoint counts nothing twice.

    start() --> shipping -- all written entries are stored --> idle
                 ^ ^ |                                          |
                 | '-+----------- 0.3 s, or flush() ------------'
                 |   |
                 |   | StoreUnavailable: keep the position
                 |   | any other error: go back to the checkpoint
                 |   v
                 '-- backing off (0.1 s, doubled up to 5 s), or flush()

    stop(): ends once everything written is stored, or at its timeout. Nothing else ends the thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from llm_gateway.errors import StoreUnavailable
from llm_gateway.journal.directory_transfer import DirectoryTransfer
from llm_gateway.journal.record_delivery import Sink
from llm_gateway.journal.segments import START, Log, Position
from llm_gateway.journal.writer import JournalWriter
from llm_gateway.process import schedule_in_background

PAUSE_S = 0.3
"""Seconds between two looks at the journal; the database is at least that far behind."""

BACKOFF_S, LONGEST_BACKOFF_S = 0.1, 5.0
"""Seconds before the next try after a failure: first and maximum."""

STOP_TIMEOUT_S, GRACE_S = 10.0, 1.0
"""Seconds that `stop` ships by default, and seconds beyond for a statement that is still running."""


class ShippingLag(NamedTuple):
    """Lag of the database behind the journal: size in bytes, and the age of the oldest missing entry in seconds."""

    size: int
    seconds: float


class Shipper:
    """Background thread that ships the records of `journal` to `sink` until it is stopped."""

    def __init__(
        self, journal: JournalWriter, sink: Sink, *, log: Log, pause: Callable[[], None] = lambda: None
    ) -> None:
        """Prepare the thread without starting it; `pause` is called in it between small pieces of work (Throttle)."""
        self._journal = journal
        self._sink = sink
        self._log = log
        self._pause = pause
        self._transfer: DirectoryTransfer | None = None
        self._has_open_requests = False
        self._wake = threading.Event()
        self._stop_by: float | None = None
        self._backoff = 0.0
        self._reason = ""
        self._progress = threading.Condition()
        self._shipped = 0
        self._moved = START
        self._complete_at = time.monotonic()
        self._has_ended = self._is_given_up = False
        self._thread = threading.Thread(target=self._run, name="journal-shipper", daemon=True)

    def start(self) -> None:
        """Start the thread. Call it once."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """True while the thread runs: records are shipped, at once or as soon as the database answers."""
        return self._thread.is_alive()

    def behind(self) -> ShippingLag:
        """Return how much of the journal is not in the database yet. Thread-safe; reads no file.

        The age counts from the last time that everything was shipped, which is checked every 0.3 seconds: the oldest
        entry may be 0.3 seconds younger.
        """
        written = self._journal.written
        with self._progress:
            if self._shipped >= written.entries:
                return ShippingLag(0, 0.0)
            segment, offset = self._moved
            size = (written.segment - segment) * self._journal.segment_bytes + written.offset - offset
            return ShippingLag(max(1, size), time.monotonic() - self._complete_at)

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything appended so far is in the database; False after `timeout_s` seconds. Thread-safe."""
        target = self._journal.appended
        self._wake.set()
        with self._progress:
            self._progress.wait_for(lambda: self._shipped >= target or self._has_ended, timeout_s)
            return self._shipped >= target

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """Ship the rest and end the thread. Returns True if everything was shipped within `timeout_s` seconds.

        If the journal was closed before, its directory is unlocked, and deleted if everything in it is shipped.
        """
        self._stop_by = time.monotonic() + timeout_s
        self._wake.set()
        self._thread.join(timeout_s + GRACE_S)
        if self._thread.is_alive():
            return False
        is_shipped = self._shipped == self._journal.appended
        if self._journal.is_closed and not self._is_given_up:
            self._is_given_up = True
            self._give_up(remove=is_shipped and not self._has_open_requests)
        return is_shipped

    def _give_up(self, *, remove: bool) -> None:
        directory = self._journal.directory
        try:
            if remove:
                directory.remove()
        except OSError as error:
            self._log("cannot delete the usage journal's directory", level="warning", reason=str(error))
        finally:
            directory.close()

    def _run(self) -> None:
        schedule_in_background()
        is_done = False
        while not is_done:
            is_stopping = self._stop_by is not None
            is_shipped = self._ship()
            pause = PAUSE_S if is_shipped else self._backoff
            if self._stop_by is not None:
                pause = min(pause, self._stop_by - time.monotonic())
            is_done = (is_stopping and is_shipped) or pause <= 0
            if not is_done:
                self._wake.wait(pause)
                self._wake.clear()
        self._end_transfer()
        with self._progress:
            self._has_ended = True
            self._progress.notify_all()

    def _ship(self) -> bool:
        """Ship what the writer has written so far; False if that failed and must be tried again."""
        written, began = self._journal.written, time.monotonic()
        try:
            transfer = self._transfer = self._transfer or self._begin()
            is_more = True
            while is_more:
                is_more = transfer.step(Position(written.segment, written.offset))[1]
                self._moved = transfer.position
            self._has_open_requests = transfer.open_requests > 0
        except StoreUnavailable as error:
            # The driver's message alone: SQLAlchemy's includes the whole statement.
            cause = getattr(error.__cause__, "orig", None)
            self._failed("warning", error.detail if cause is None else f"{error.detail} ({cause})")
            return False
        except Exception as error:  # edge: the thread must not end; the records are in the journal and are read again
            self._end_transfer()
            self._failed("error", repr(error))
            return False
        if self._backoff:
            self._safe_log("usage records are stored again")
        self._backoff = 0.0
        self._reason = ""
        with self._progress:
            self._shipped, self._complete_at = written.entries, began
            self._progress.notify_all()
        return True

    def _begin(self) -> DirectoryTransfer:
        return DirectoryTransfer(
            self._journal.directory, self._sink, log=self._log, known=self._journal.recent, pause=self._pause
        )

    def _end_transfer(self) -> None:
        transfer, self._transfer = self._transfer, None
        if transfer is not None:
            with suppress(OSError):  # the file was only read, so an error at closing loses nothing
                transfer.close()

    def _failed(self, level: str, reason: str) -> None:
        if reason != self._reason:
            self._reason = reason
            self._safe_log("usage records cannot be stored and wait in the journal", level=level, reason=reason)
        self._backoff = min(2 * self._backoff or BACKOFF_S, LONGEST_BACKOFF_S)

    def _safe_log(self, event: str, **fields: str) -> None:
        with suppress(Exception):  # edge: a log that fails must not end the thread
            self._log(event, **fields)

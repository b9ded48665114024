"""Moves finished requests from the journal to the database; the counterpart of `writer.py`, in a thread of its own.

The database down, records wait in the journal's files: in memory there is never more than a batch. After any other
failure reading begins anew at the checkpoint, which counts nothing twice; the thread does not end before it is told to.
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

PAUSE_S = 0.15
BACKOFF_S, LONGEST_BACKOFF_S = 0.1, 5.0
STOP_TIMEOUT_S, GRACE_S = 10.0, 1.0


class ShippingLag(NamedTuple):
    """How far the database is behind the journal: bytes, and the age of the oldest missing entry in seconds."""

    size: int
    seconds: float


class Shipper:
    """Ships what `journal` writes, until it is stopped."""

    def __init__(
        self, journal: JournalWriter, sink: Sink, *, log: Log, pause: Callable[[], None] = lambda: None
    ) -> None:
        """`pause` is called in the thread between small pieces of work."""
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
        """Begin."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether records are moved on, now or once the database answers."""
        return self._thread.is_alive()

    def behind(self) -> ShippingLag:
        """What is in the journal and not in the database. From any thread, without reading a file.

        The age counts from the last time everything was known to be shipped, which is checked every 0.15 seconds: the
        oldest entry may be 0.15 seconds younger.
        """
        written = self._journal.written
        with self._progress:
            if self._shipped >= written.entries:
                return ShippingLag(0, 0.0)
            segment, offset = self._moved
            size = (written.segment - segment) * self._journal.segment_bytes + written.offset - offset
            return ShippingLag(max(1, size), time.monotonic() - self._complete_at)

    def flush(self, timeout_s: float) -> bool:
        """Whether everything appended to the journal before is in the database, waiting so long. From any thread."""
        target = self._journal.appended
        self._wake.set()
        with self._progress:
            self._progress.wait_for(lambda: self._shipped >= target or self._has_ended, timeout_s)
            return self._shipped >= target

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """Ship the rest and end; whether all was shipped.

        If the journal was closed before, its directory is given up, and deleted when nothing in it is needed.
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
            self._log("the usage journal's directory stays", level="warning", reason=str(error))
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
        """Ship what is written by now; False when that did not succeed and is to be tried again."""
        written, began = self._journal.written, time.monotonic()
        try:
            transfer = self._transfer = self._transfer or self._begin()
            is_more = True
            while is_more:
                is_more = transfer.step(Position(written.segment, written.offset))[1]
                self._moved = transfer.position
            self._has_open_requests = transfer.open_requests > 0
        except StoreUnavailable as error:
            cause = getattr(
                error.__cause__, "orig", None
            )  # what the driver said; SQLAlchemy's adds the whole statement
            self._failed("warning", error.detail if cause is None else f"{error.detail} ({cause})")
            return False
        except Exception as error:  # edge: whatever it is, the records are safe in the journal and are read again
            self._end_transfer()
            self._failed("error", repr(error))
            return False
        if self._backoff:
            self._tell("usage records are stored again")
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
            with suppress(OSError):  # it was only read
                transfer.close()

    def _failed(self, level: str, reason: str) -> None:
        if reason != self._reason:
            self._reason = reason
            self._tell("usage records wait in the journal", level=level, reason=reason)
        self._backoff = min(2 * self._backoff or BACKOFF_S, LONGEST_BACKOFF_S)

    def _tell(self, event: str, **fields: str) -> None:
        with suppress(Exception):  # edge: a log that fails must not end the thread
            self._log(event, **fields)

"""Moves finished requests from the journal to the database; the counterpart of `writer.py`, in a thread of its own.

The database down, records wait in the journal's files: in memory there is never more than a batch.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import StoreUnavailable
from llm_gateway.journal.delivery import Sink
from llm_gateway.journal.segments import Log, Position, WriterDir
from llm_gateway.journal.transfer import Transfer
from llm_gateway.journal.writer import Written

PAUSE_S = 0.15
BACKOFF_S, LONGEST_BACKOFF_S = 0.1, 5.0
STOP_TIMEOUT_S, GRACE_S = 10.0, 1.0


class Journal(Protocol):
    """What the shipper needs of the writer."""

    directory: WriterDir
    recent: dict[str, UsageRecord]
    written: Written
    appended: int
    is_closed: bool


class Shipper:
    """Ships what `journal` writes, until it is stopped."""

    def __init__(self, journal: Journal, sink: Sink, *, log: Log) -> None:
        self._journal = journal
        self._log = log
        self._transfer = Transfer(journal.directory, sink, log=log, known=journal.recent)
        self._wake = threading.Event()
        self._stop_by: float | None = None
        self._backoff = 0.0
        self._progress = threading.Condition()
        self._shipped = 0
        self._has_ended = self._is_given_up = False
        self._thread = threading.Thread(target=self._run, name="journal-shipper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

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
        self._transfer.close()
        is_shipped = self._shipped == self._journal.appended
        if self._journal.is_closed and not self._is_given_up:
            self._is_given_up = True
            self._give_up(remove=is_shipped and not self._transfer.open_requests)
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
        while True:
            is_stopping = self._stop_by is not None
            is_shipped = self._ship()
            pause = PAUSE_S if is_shipped else self._backoff
            if self._stop_by is not None:
                pause = min(pause, self._stop_by - time.monotonic())
            if (is_stopping and is_shipped) or pause <= 0:
                break
            self._wake.wait(pause)
            self._wake.clear()
        with self._progress:
            self._has_ended = True
            self._progress.notify_all()

    def _ship(self) -> bool:
        """Ship what is written by now; False when that did not succeed and is to be tried again."""
        written = self._journal.written
        limit = Position(written.segment, written.offset)
        try:
            while self._transfer.step(limit)[1]:
                pass
        except StoreUnavailable as error:
            self._failed(error.detail)
            return False
        except Exception as error:  # edge: whatever it is, the records are safe in the journal and are tried again
            self._failed(repr(error))
            return False
        if self._backoff:
            self._log("usage records are stored again")
        self._backoff = 0.0
        with self._progress:
            self._shipped = written.entries
            self._progress.notify_all()
        return True

    def _failed(self, reason: str) -> None:
        if not self._backoff:
            self._log("usage records wait in the journal", level="warning", reason=reason)
        self._backoff = min(2 * self._backoff or BACKOFF_S, LONGEST_BACKOFF_S)

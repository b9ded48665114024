"""Moves finished requests from the journal to the database; the counterpart of `writer.py`, in a thread of its own.

A batch is sent again until the database has it, and the database counts a record once however often it is sent; only
then does the checkpoint advance and are segments deleted.
"""

from __future__ import annotations

import threading
import time

from llm_gateway.errors import StoreUnavailable
from llm_gateway.journal.assembly import Assembly
from llm_gateway.journal.delivery import BATCH, Delivery, Sink
from llm_gateway.journal.reader import Damage, Reader
from llm_gateway.journal.segments import Log, Position
from llm_gateway.journal.writer import JournalWriter

PAUSE_S = 0.25
POLL_S = 0.005
BACKOFF_S, MAX_BACKOFF_S = 0.1, 5.0
STOP_TIMEOUT_S = 10.0


def damage_reporter(log: Log) -> Damage:
    """Says of damage where it is and how large."""

    def report(file: str, offset: int, size: int) -> None:
        log(
            "the usage journal is damaged; its other entries are read",
            level="error",
            file=file,
            offset=offset,
            bytes=size,
        )

    return report


class Shipper:
    """Ships what `journal` writes. `start` it; `stop` it after the journal is closed."""

    def __init__(self, journal: JournalWriter, sink: Sink, *, log: Log) -> None:
        self._journal = journal
        self._directory = journal.directory
        self._delivery = Delivery(sink, journal.directory.path.parent, log)
        self._log = log
        self._reader = Reader(journal.directory, damage_reporter(log))
        self._assembly = Assembly()
        self._first_segment = 1
        self._shipped = self._reader.position
        self._failing: str | None = None
        self._wanted = threading.Event()
        self._progress = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal-shipper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def flush(self, timeout_s: float) -> bool:
        """Whether everything appended before reached the database within `timeout_s`. From any thread but the loop's.

        Records of requests that were never sent do not count while a full disk keeps them in memory.
        """
        deadline = time.monotonic() + timeout_s
        appended = self._journal.appended
        while self._journal.landed < appended:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        target = self._journal.written
        self._wanted.set()
        with self._progress:
            return self._progress.wait_for(lambda: self._shipped >= target, deadline - time.monotonic())

    def stop(self) -> None:
        """Ship what is left, then end. An empty journal's directory is removed; another start replays the rest."""
        self._stopping.set()
        self._wanted.set()
        self._thread.join(STOP_TIMEOUT_S)
        if self._thread.is_alive():
            self._log("the usage journal is not shipped yet; the next start does it", level="warning")
            return
        self._reader.close()
        if self._shipped < self._journal.written or not self._assembly.is_empty:
            self._directory.close()
            return
        try:
            self._directory.remove()
        except OSError as error:
            self._log("the usage journal's files cannot be deleted", level="warning", reason=str(error))

    def _run(self) -> None:
        while True:
            last = self._stopping.is_set()
            payloads = self._read()
            if payloads and not self._deliver(payloads):
                return  # They were read and not delivered: from here on nothing must advance.
            if self._reader.position != self._shipped:
                self._advance(self._reader.position)
            if len(payloads) < BATCH:
                if last:
                    return
                self._wanted.wait(PAUSE_S)
            self._wanted.clear()

    def _read(self) -> list[bytes]:
        """About a batch of settled records, if there are as many."""
        payloads: list[bytes] = []
        limit = self._journal.written
        try:
            while len(payloads) < BATCH and (entries := self._reader.read(limit)):
                payloads.extend(
                    [p for position, entry in entries if (p := self._assembly.add(position, entry)) is not None]
                )
        except OSError as error:
            self._say("the usage journal cannot be read", level="error", reason=str(error))
        return payloads

    def _deliver(self, payloads: list[bytes]) -> bool:
        """Send until it is done; False when told to stop before."""
        pause = BACKOFF_S
        while True:
            try:
                self._delivery.settled(payloads)
            except StoreUnavailable as error:
                self._log(
                    "usage records wait for the database", level="warning", count=len(payloads), reason=error.detail
                )
            except Exception as error:  # edge: whatever it is, the records are safe in the journal and tried again
                self._log("usage records cannot be stored", level="error", count=len(payloads), exc_info=error)
            else:
                return True
            if self._stopping.wait(pause):
                return False
            pause = min(2 * pause, MAX_BACKOFF_S)

    def _advance(self, position: Position) -> None:
        safe = self._assembly.safe_position(position)
        try:
            # First, as it makes room; a reader whose checkpoint is in a segment that is gone begins with the next.
            while self._first_segment < safe.segment:
                self._directory.segment(self._first_segment).unlink(missing_ok=True)
                self._first_segment += 1
            self._directory.keep_checkpoint(safe)
            self._failing = None
        except OSError as error:
            self._say("the usage journal's checkpoint cannot be kept", level="warning", reason=str(error))
        with self._progress:
            self._shipped = position
            self._progress.notify_all()

    def _say(self, event: str, *, level: str, reason: str) -> None:
        """Log a trouble once while it lasts."""
        if self._failing != event:
            self._failing = event
            self._log(event, level=level, reason=reason)

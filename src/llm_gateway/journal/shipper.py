"""Moves finished requests from the journal to the database; the counterpart of `writer.py`, in a thread of its own.

A batch is sent again until the database has it, and the database counts a record once however often it is sent; only
then does the checkpoint advance and are segments deleted. A record the database refuses is set aside, not its batch.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from llm_gateway.domain.usage import UsageRecord, decode_record, encode_record
from llm_gateway.errors import RecordsRefused, StoreUnavailable
from llm_gateway.journal.assembly import Assembly
from llm_gateway.journal.reader import Damage, Reader
from llm_gateway.journal.segments import Position
from llm_gateway.journal.writer import JournalWriter

Sink: TypeAlias = Callable[[Sequence[UsageRecord]], None]
Log: TypeAlias = Callable[..., None]

BATCH = 2000
PAUSE_S = 0.25
BACKOFF_S, MAX_BACKOFF_S = 0.1, 5.0
STOP_TIMEOUT_S = 10.0
QUARANTINE = "quarantine.jsonl"


def deliver(records: Sequence[UsageRecord], sink: Sink, quarantine: Path, log: Log) -> None:
    """Hand records to the sink; those it refuses are written to the quarantine file instead.

    Raises:
        StoreUnavailable: the database does not answer; all of them can be sent again.
    """
    try:
        sink(records)
    except RecordsRefused as error:
        if len(records) > 1:
            half = len(records) // 2
            deliver(records[:half], sink, quarantine, log)
            deliver(records[half:], sink, quarantine, log)
            return
        with quarantine.open("ab") as file:
            file.write(encode_record(records[0]) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        log(
            "the database refuses a usage record; it is kept aside",
            level="error",
            request_id=records[0].id,
            file=str(quarantine),
            reason=str(error),
        )


def decode_all(payloads: Sequence[bytes], log: Log) -> list[UsageRecord]:
    """The records of settle payloads; one that is none (from another version) is reported."""
    records = []
    for payload in payloads:
        try:
            records.append(decode_record(payload))
        except msgspec.DecodeError as error:
            log("a usage record in the journal cannot be read", level="error", reason=str(error))
    return records


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
        self._sink = sink
        self._log = log
        self._reader = Reader(journal.directory, damage_reporter(log))
        self._assembly = Assembly()
        self._first_segment = 1
        self._shipped = self._reader.position
        self._wanted = threading.Event()
        self._progress = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal-shipper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def flush(self, timeout_s: float) -> bool:
        """Whether everything in the journal at this moment reached the database within `timeout_s`. From any thread."""
        target = self._journal.written
        self._wanted.set()
        with self._progress:
            return self._progress.wait_for(lambda: self._shipped >= target, timeout_s)

    def stop(self) -> None:
        """Ship what is left, then end. An empty journal's directory is removed; another start replays the rest."""
        self._stopping.set()
        self._wanted.set()
        self._thread.join(STOP_TIMEOUT_S)
        if self._thread.is_alive():
            self._log("the usage journal is not shipped yet; the next start does it", level="warning")
            return
        self._reader.close()
        if self._shipped >= self._journal.written and self._assembly.is_empty:
            self._directory.remove()
        else:
            self._directory.close()

    def _run(self) -> None:
        while True:
            last = self._stopping.is_set()
            shipped = self._ship_available()
            if last and (shipped < BATCH or self._reader.position != self._shipped):
                return
            if shipped < BATCH:
                self._wanted.wait(PAUSE_S)
            self._wanted.clear()

    def _ship_available(self) -> int:
        """Ship up to a batch. Returns the number of records."""
        payloads: list[bytes] = []
        limit = self._journal.written
        try:
            while len(payloads) < BATCH and (entries := self._reader.read(limit)):
                payloads.extend(
                    [p for position, entry in entries if (p := self._assembly.add(position, entry)) is not None]
                )
        except OSError as error:
            self._log("the usage journal cannot be read", level="error", reason=str(error))
        if payloads and not self._deliver(decode_all(payloads, self._log)):
            return 0
        position = self._reader.position
        if position != self._shipped:
            self._advance(position)
        return len(payloads)

    def _deliver(self, records: list[UsageRecord]) -> bool:
        pause = BACKOFF_S
        while True:
            try:
                deliver(records, self._sink, self._directory.path.parent / QUARANTINE, self._log)
                return True
            except StoreUnavailable as error:
                self._log(
                    "usage records wait for the database", level="warning", count=len(records), reason=error.detail
                )
            except Exception as error:  # edge: whatever it is, the records are safe in the journal and tried again
                self._log("usage records cannot be stored", level="error", count=len(records), exc_info=error)
            if self._stopping.wait(pause):
                return False
            pause = min(2 * pause, MAX_BACKOFF_S)

    def _advance(self, position: Position) -> None:
        safe = self._assembly.safe_position(position)
        try:
            self._directory.keep_checkpoint(safe)
            while self._first_segment < safe.segment:
                self._directory.segment(self._first_segment).unlink(missing_ok=True)
                self._first_segment += 1
        except OSError as error:
            self._log("the usage journal's checkpoint cannot be kept", level="warning", reason=str(error))
        with self._progress:
            self._shipped = position
            self._progress.notify_all()

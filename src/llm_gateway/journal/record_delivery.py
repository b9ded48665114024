"""Deliver finished usage records to the database in batches, and quarantine the single records it refuses."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import RecordsRefused, StoreUnavailable
from llm_gateway.journal.segments import Log, sync_directory

BATCH_RECORDS = 2000
FREED_AT_ONCE = 16
COUNTED_AT_ONCE = 64 * 1024

Sink: TypeAlias = Callable[[list[UsageRecord]], None]
"""Stores records in one transaction, each once however often it comes.

Raises StoreUnavailable (try again; it may be stored or not) or RecordsRefused (nothing is stored, at least one record
never can be).
"""


def quarantine_file(data_dir: Path) -> Path:
    """Where a data directory's quarantined records are kept."""
    return data_dir / "journal" / "quarantine.jsonl"


class QuarantineCount:
    """Counts the lines of the quarantine file, reading what was added since the last time. Safe in any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.Lock()
        self._read = self._lines = 0

    def __call__(self) -> int:
        """How many there are now; the last count if the file cannot be read."""
        with self._turn:
            try:
                self._read_on()
            except FileNotFoundError:
                self._read = self._lines = 0
            except OSError:
                pass
            return self._lines

    def _read_on(self) -> None:
        size = self._path.stat().st_size
        if size == self._read:
            return
        if size < self._read:  # somebody took records out: count anew
            self._read = self._lines = 0
        with self._path.open("rb") as file:
            file.seek(self._read)
            while part := file.read(COUNTED_AT_ONCE):
                self._lines += part.count(b"\n")
                self._read += len(part)


class Quarantine:
    """The file of what the database can never store.

    One JSON object a line: `request_id`, `reason`, and the `record`, or the `payload` that is none. What stands in it
    already is not written again: after a crash the same record may come once more.
    """

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        self._log = log
        self._known: set[bytes] | None = None

    def add(self, request_id: str, reason: str, **what: Any) -> None:
        """Keep something durably, and say so.

        Raises:
            StoreUnavailable: it could not be kept.
        """
        line = msgspec.json.encode({"request_id": request_id, "reason": reason, **what})
        digest = sha256(line).digest()
        try:
            if self._known is None:
                self._known = _digests(self._path)
            if digest not in self._known:
                _append(self._path, line + b"\n")
        except OSError as error:
            raise StoreUnavailable(f"{self._path} cannot be written ({error.strerror}).") from error
        self._log(
            "a usage record cannot be stored and is set aside",
            level="error",
            request_id=request_id,
            reason=reason,
            file=str(self._path),
        )


class RecordDelivery:
    """Queue of records for the sink, delivered in batches. After a failure it holds what was not delivered."""

    def __init__(self, sink: Sink, quarantine: Quarantine, pause: Callable[[], None] = lambda: None) -> None:
        """Call `pause` after every few records that are freed.

        Freeing a batch at once would hold the interpreter's lock for 5 to 20 ms.
        """
        self._sink = sink
        self._quarantine = quarantine
        self._pause = pause
        self._parts: list[list[UsageRecord]] = []

    def add(self, records: list[UsageRecord]) -> None:
        """Take records, to be delivered in this order, in batches."""
        starts = range(0, len(records), BATCH_RECORDS)
        self._parts[:0] = [records[at : at + BATCH_RECORDS] for at in reversed(starts)]

    def run(self) -> None:
        """Deliver everything.

        Raises:
            StoreUnavailable: the database does not answer; run it again.
        """
        while self._parts:
            part = self._parts[-1]
            try:
                self._sink(part)
            except RecordsRefused as error:
                if len(part) == 1:
                    self._quarantine.add(part[0].id, str(error), record=part[0])
                    self._parts.pop()
                else:
                    half = len(part) // 2
                    self._parts[-1:] = [part[half:], part[:half]]
            else:
                self._parts.pop()
                while part:
                    del part[-FREED_AT_ONCE:]
                    self._pause()


def _digests(path: Path) -> set[bytes]:
    """Of every line that is there."""
    if not path.exists():
        return set()
    with path.open("rb") as file:
        return {sha256(line.rstrip(b"\n")).digest() for line in file}


def _append(path: Path, line: bytes) -> None:
    """Add a line durably, whole or not at all; one that a power loss left torn is ended first."""
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            line = b"\n" + line
        if os.write(fd, line) < len(line):
            os.ftruncate(fd, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(fd)
        if not size:
            sync_directory(path.parent)
    finally:
        os.close(fd)

"""Deliver finished usage records to the database in batches, and quarantine the single records it refuses."""

from __future__ import annotations

import errno
import fcntl
import fnmatch
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import RecordsRefused, StoreUnavailable
from llm_gateway.journal.listing import names_in
from llm_gateway.journal.segments import Log, sync_directory

BATCH_RECORDS = 2000
"""Records handed to the sink at a time, so stored in one transaction."""

FREED_AT_ONCE = 16
"""Records freed between two calls of `pause`."""

TAKEN = "quarantine-*.jsonl"
"""Names of quarantine files that a reimport has renamed."""

COUNTED_AT_ONCE = 64 * 1024
"""Bytes of the quarantine file read at a time."""

Sink: TypeAlias = Callable[[list[UsageRecord]], None]
"""Store a batch of usage records in the database: the contract between the journal and the store.

    def sink(records: list[UsageRecord]) -> None:
        usage_store.write(records, throttle)

Called: by the replay at startup, before requests are served, then from the shipper's background thread, one call after
the other. Each gets 1 to BATCH_RECORDS records of one or several writers, those of a writer in the order their requests
ended. Never called with an empty list, nor after the shipper has stopped.

Returns: all records are stored durably, in one transaction. A record that is stored already (same id) is skipped: after
a crash or an error the same records are sent again.

Raises:
    StoreUnavailable: the batch may be stored or not. The same batch is sent again later; records wait in the journal.
    RecordsRefused: nothing is stored, since at least one record never can be. The batch is halved until the refused
        record is alone, which then goes to the quarantine file.

After any other exception the shipper logs it, starts again at the last checkpoint, and so sends records again.
"""


def quarantine_file(data_dir: Path) -> Path:
    """Return the path of the file for records that the database refused, in this data directory."""
    return data_dir / "journal" / "quarantine.jsonl"


def taken_files(quarantine: Path) -> list[Path]:
    """Return the files that a reimport has renamed and not finished, oldest first.

    Raises:
        OSError: their folder cannot be listed.
    """
    return [quarantine.with_name(name) for name in fnmatch.filter(names_in(quarantine.parent), TAKEN)]


class QuarantineCount:
    """Number of lines in the quarantine files; each call reads only what was added since the last. Thread-safe.

    `path` is the file for new lines. Those that a reimport has renamed and not finished lie beside it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.Lock()
        self._known: dict[tuple[int, int], tuple[int, int]] = {}
        """Bytes read and lines counted of each file, by its device and inode."""

    def __call__(self) -> int:
        """Return the current number of lines; the last known number if a file cannot be read."""
        with self._turn:
            with suppress(OSError):
                paths = (*taken_files(self._path), self._path)
                self._known = dict(self._count(path) for path in paths if path.exists())
            return sum(lines for _, lines in self._known.values())

    def _count(self, path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the identity of a file, and how many bytes and lines it has."""
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            identity = found.st_dev, found.st_ino
            read, lines = self._known.get(identity, (0, 0))
            if found.st_size < read:  # somebody removed lines: count from the start
                read = lines = 0
            file.seek(read)
            while part := file.read(COUNTED_AT_ONCE):
                lines += part.count(b"\n")
                read += len(part)
        return identity, (read, lines)


class Quarantine:
    """File for records that the database can never store: one JSON object per line.

    Fields are `request_id`, `reason`, and either `record` or, if the entry cannot be decoded, `payload`. A line that is
    in the file already is not written again, since the same record may come twice after a crash.
    """

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        self._log = log
        self._known: set[bytes] | None = None

    def add(self, request_id: str, reason: str, **what: Any) -> None:
        """Append a line durably and log an error; `what` holds the field `record` or `payload`.

        Raises:
            StoreUnavailable: the file cannot be read or written.
        """
        line = msgspec.json.encode({"request_id": request_id, "reason": reason, **what})
        digest = sha256(line).digest()
        try:
            if self._known is None:
                self._known = _digests(self._path)
            if digest not in self._known:
                _append(self._path, line + b"\n")
                self._known.add(digest)
        except OSError as error:
            raise StoreUnavailable(
                f"The quarantine file {self._path} cannot be written ({error.strerror}): free space, or make it "
                "writable. Until then usage records wait in the journal."
            ) from error
        self._log(
            "a usage record cannot be stored: moved to the quarantine file",
            level="error",
            request_id=request_id,
            reason=reason,
            file=str(self._path),
        )


class RecordDelivery:
    """Queue of records for the sink, delivered in batches. After a failure it keeps what was not delivered."""

    def __init__(self, sink: Sink, quarantine: Quarantine, pause: Callable[[], None] = lambda: None) -> None:
        """Set the sink; `pause` is called after every 16 records that are freed.

        Freeing a whole batch at once would hold the GIL for 5 to 20 ms.
        """
        self._sink = sink
        self._quarantine = quarantine
        self._pause = pause
        self._parts: list[list[UsageRecord]] = []

    def add(self, records: list[UsageRecord]) -> None:
        """Queue records after those already queued, split into batches."""
        self._parts[:0] = _split(records, BATCH_RECORDS)

    def split(self, size: int) -> None:
        """Deliver what is in the queue in parts of at most `size` records."""
        self._parts = [piece for part in self._parts for piece in _split(part, size)]

    def clear(self) -> None:
        """Forget what is in the queue."""
        self._parts.clear()

    def run(self) -> None:
        """Deliver everything in the queue; bisect a refused batch until the refused record is alone.

        Raises:
            StoreUnavailable: the database does not answer; call again later.
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


def _split(records: list[UsageRecord], size: int) -> list[list[UsageRecord]]:
    """Return the records in parts of at most `size`, the first part last."""
    return [records[at : at + size] for at in reversed(range(0, len(records), size))]


def _digests(path: Path) -> set[bytes]:
    """Return the SHA-256 digest of every line of the file; none if it does not exist."""
    if not path.exists():
        return set()
    with path.open("rb") as file:
        return {sha256(line.rstrip(b"\n")).digest() for line in file}


def _append(path: Path, line: bytes) -> None:
    """Append a line durably, whole or not at all. If a power loss left the last line torn, end that one first."""
    while not _append_locked(path, line):
        pass  # a reimport renamed the file after it was opened


def _append_locked(path: Path, line: bytes) -> bool:
    """Append the line under the lock that a reimport takes before it reads. Returns False if the file was renamed."""
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not _is_at(path, fd):
            return False
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
    return True


def _is_at(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False

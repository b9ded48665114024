"""Hands finished records to the database, and sets aside the ones it refuses, not the batch they are in."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import RecordsRefused, StoreUnavailable
from llm_gateway.journal.segments import Log, sync_directory

BATCH_RECORDS = 2000

Sink: TypeAlias = Callable[[list[UsageRecord]], None]
"""Stores records in one transaction, each once however often it comes.

Raises StoreUnavailable (try again; it may be stored or not) or RecordsRefused (nothing is stored, at least one record
never can be).
"""


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


class Delivery:
    """Records on their way to the sink. What is left after a failure is what has not been delivered."""

    def __init__(self, sink: Sink, quarantine: Quarantine) -> None:
        self._sink = sink
        self._quarantine = quarantine
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

"""Hands finished records to the database, and sets aside the ones it refuses, not the batch they are in."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import RecordsRefused, StoreUnavailable
from llm_gateway.journal.segments import Log

BATCH_RECORDS = 2000

Sink: TypeAlias = Callable[[list[UsageRecord]], None]
"""Stores records in one transaction, each once however often it comes.

Raises StoreUnavailable (try again; it may be stored or not) or RecordsRefused (nothing is stored, at least one record
never can be).
"""


class Quarantine:
    """The file of what the database can never store: one JSON object a line, `reason` and `record` or `payload`.

    A record can stand in it twice when the gateway crashed right after; its id tells.
    """

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        self._log = log

    def add(self, request_id: str, reason: str, **what: Any) -> None:
        """Keep something durably, and say so.

        Raises:
            StoreUnavailable: it could not be kept.
        """
        line = msgspec.json.encode({"reason": reason, **what}) + b"\n"
        try:
            _append(self._path, line)
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


def _append(path: Path, line: bytes) -> None:
    """Add a line durably, whole or not at all."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(fd).st_size
        if os.write(fd, line) < len(line):
            os.ftruncate(fd, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(fd)
    finally:
        os.close(fd)

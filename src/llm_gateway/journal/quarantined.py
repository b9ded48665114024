"""Usage records that the database refused: list the lines of the quarantine file, and offer them to the sink again.

A reimport renames the file first, so that a running gateway begins a new one, and deletes the renamed file last. Killed
in between, it leaves that file, which the next list and the next reimport read too; lines that are done are blank. What
the sink refuses again goes back to the gateway's file.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import ConfigurationError, RecordsRefused
from llm_gateway.journal.record_delivery import TAKEN, Quarantine, Sink, quarantine_file, taken_files


class QuarantinedRecord(msgspec.Struct, frozen=True):
    """A line of the file: why the record was refused, and the record, or the entry if that could not be decoded."""

    request_id: str
    reason: str
    record: UsageRecord | None = None
    payload: str | None = None


class Reimported(NamedTuple):
    """Numbers of records that a reimport stored, of those refused again, and of lines that hold no record."""

    stored: int
    refused: int
    unreadable: int


def list_quarantined(data_dir: Path) -> Iterator[QuarantinedRecord]:
    """Yield what is in the quarantine, oldest first. A damaged line has an empty id and is its own payload.

    Raises:
        ConfigurationError: a file cannot be read.
    """
    own = quarantine_file(data_dir)
    with _explained(own):
        for path in (*taken_files(own), own):
            if path.exists():
                with path.open("rb") as file:
                    yield from filter(None, map(_parsed, file))


def reimport(data_dir: Path, sink: Sink, progress: Callable[[int], None] = lambda _done: None) -> Reimported:
    """Offer every quarantined record to the sink, one at a time. A gateway may be running.

    `progress` is called with the number of lines done, after each.

    Raises:
        ConfigurationError: a file cannot be read or written, or another reimport is running.
        StoreUnavailable: the database does not answer; what is not done stays in the quarantine.
    """
    own = quarantine_file(data_dir)
    back = Quarantine(own, _say_nothing)
    counts: Counter[str] = Counter()
    if not own.parent.is_dir():
        return Reimported(0, 0, 0)
    with _explained(own), _alone(own.parent):
        if own.exists():
            own.rename(own.with_name(TAKEN.replace("*", str(time.time_ns()))))
        for path in taken_files(own):
            with path.open("r+b") as file:
                # A gateway that opened it before the rename writes its line first; who comes later sees the rename.
                fcntl.flock(file, fcntl.LOCK_EX)
                fcntl.flock(file, fcntl.LOCK_UN)
                at = 0
                for line in file:
                    if parsed := _parsed(line):
                        counts[_offer(parsed, sink, back)] += 1
                        progress(counts.total())
                        os.pwrite(file.fileno(), b" " * (len(line) - 1), at)  # done, whatever comes
                    at += len(line)
                path.unlink()
    return Reimported(counts["stored"], counts["refused"], counts["unreadable"])


def _offer(found: QuarantinedRecord, sink: Sink, back: Quarantine) -> str:
    """Store one record, or put it back. Returns what became of it, as the field of Reimported."""
    if found.record is None:
        back.add(found.request_id, found.reason, payload=found.payload)
        return "unreadable"
    try:
        sink([found.record])
    except RecordsRefused as error:
        back.add(found.request_id, str(error), record=found.record)
        return "refused"
    return "stored"


def _parsed(line: bytes) -> QuarantinedRecord | None:
    """Return what the line holds, None for an empty one, which an interrupted write can leave."""
    if not line.strip():
        return None
    try:
        return msgspec.json.decode(line, type=QuarantinedRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return QuarantinedRecord(
            "", f"The line cannot be read: {error}", payload=line.decode("utf-8", "replace").strip()
        )


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold the lock that only one reimport at a time can hold."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ConfigurationError("Another reimport is running: wait for its end.") from None
    finally:
        os.close(descriptor)


@contextmanager
def _explained(own: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"The quarantine file {error.filename or own} cannot be read or written ({error.strerror}): correct its "
            "permissions, or free space."
        ) from None


def _say_nothing(*_what: Any, **_fields: Any) -> None:
    """Log nothing: the command prints what became of the records."""

"""File in the data directory with the chain's name, and the number and hash of its last entry.

It is outside the database, so that entries that were taken off the chain's end, or put in the place of others with new
hashes, do not fit to it.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from llm_gateway.domain.audit import START
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.errors import ConfigurationError

NAME = "audit.head"
_TEXT = re.compile(r"([0-9a-f-]{36}) (\d{20}) ([0-9a-f]{64})\n")


class Head(NamedTuple):
    """A chain's name, and the number and hash of its last entry."""

    chain: str
    number: int
    hash: str


class HeadFile:
    """The file of one data directory. Its text always has the same length and is replaced by one write.

    Without `fsync`, for tests, a power failure can leave an older head.
    """

    def __init__(self, directory: Path, *, fsync: bool = True) -> None:
        self.path = directory / NAME
        self._fsync = fsync

    def exists(self) -> bool:
        """Return whether an entry was ever to be written from this data directory."""
        return self.path.exists()

    def read(self) -> Head:
        """Return the head; the first call in a data directory makes the file, with a new chain.

        Raises:
            ConfigurationError: the file cannot be read or made, or is damaged.
        """
        with self._open() as descriptor:
            return self._read(descriptor)

    def advance(self, head: Head, *, is_after_gap: bool = False) -> None:
        """Store a chain's new head. One that is not after the stored one is ignored, unless `is_after_gap`.

        Raises:
            ConfigurationError: the file cannot be written.
        """
        with self._open() as descriptor:
            if is_after_gap or self._read(descriptor).number < head.number:
                self._write(descriptor, head)

    def _read(self, descriptor: int) -> Head:
        text = os.pread(descriptor, 4096, 0).decode("ascii", "replace")
        if not text:
            head = Head(new_id(), 0, START)
            self._write(descriptor, head)
            return head
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ConfigurationError(
                f"{self.path} is damaged: move it away, and the audit trail goes on in a new chain. "
                "Until then llm-gateway audit verify checks the entries without it."
            )
        return Head(match[1], int(match[2]), match[3])

    def _write(self, descriptor: int, head: Head) -> None:
        os.pwrite(descriptor, b"%b %020d %b\n" % (head.chain.encode(), head.number, head.hash.encode()), 0)
        if self._fsync:
            os.fsync(descriptor)

    @contextmanager
    def _open(self) -> Iterator[int]:
        """Open the file, and keep other processes and threads from it meanwhile (flock(2))."""
        try:
            # A command on Postgres can run where no gateway has run yet.
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield descriptor
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ConfigurationError(
                f"{self.path} cannot be used ({error.strerror}): correct its permissions, or free space."
            ) from None

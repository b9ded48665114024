"""The files of a writer's journal: preallocated segments, the directory's lock, the checkpoint.

<data_dir>/journal/<writer>/writer.lock   flock, held for the life of the process
                           /000001.seg    entries, then zeros
                           /checkpoint    JSON {segment, offset}: where reading must start again
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias

import msgspec

from llm_gateway.journal.sync import Syncer, open_syncer

Log: TypeAlias = Callable[..., None]
"""Hears of events: log(event, level="info", **fields)."""

ZEROS = bytes(1024 * 1024)


class Position(NamedTuple):
    """A place in a writer's journal: segment number (from 1) and byte offset. Compares in reading order."""

    segment: int
    offset: int


START = Position(1, 0)


class WrittenPosition(NamedTuple):
    """Position up to which a writer has written: all before `offset` of `segment`, `entries` entries in all."""

    segment: int
    offset: int
    entries: int


class _Checkpoint(msgspec.Struct):
    segment: Annotated[int, msgspec.Meta(ge=1)]
    offset: Annotated[int, msgspec.Meta(ge=0)]


class WriterDir:
    """One writer's directory, locked by this process until it is closed."""

    def __init__(self, path: Path) -> None:
        """Lock the directory.

        Raises:
            BlockingIOError: a living writer holds it.
            OSError: it is not there, or its lock cannot be made.
        """
        self.path = path
        self._lock: int | None = os.open(path / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise

    @classmethod
    def make(cls, path: Path) -> WriterDir:
        """A new directory, locked.

        Raises:
            OSError: it cannot be made.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_directory(path.parent.parent)
        path.mkdir(mode=0o700)
        directory = cls(path)
        sync_directory(path.parent)
        return directory

    def segment(self, number: int) -> Path:
        """The file of a segment."""
        return self.path / f"{number:06d}.seg"

    def segments(self) -> list[int]:
        """The numbers of the segments there are, in order."""
        return sorted(int(file.stem) for file in self.path.glob("*.seg") if file.stem.isdecimal())

    def checkpoint(self) -> Position:
        """Where reading must start; the journal's start when nothing was kept or it cannot be read."""
        try:
            kept = msgspec.json.decode((self.path / "checkpoint").read_bytes(), type=_Checkpoint)
        except (OSError, msgspec.DecodeError):
            return START
        return Position(kept.segment, kept.offset)

    def keep_checkpoint(self, position: Position) -> None:
        """Replace the checkpoint. Losing it costs time at the next start, nothing else, so it is not synced.

        Raises:
            OSError: it stays as it was.
        """
        temporary = self.path / "checkpoint.new"
        temporary.touch(mode=0o600)
        temporary.write_bytes(msgspec.json.encode(_Checkpoint(*position)))
        temporary.replace(self.path / "checkpoint")

    def remove(self) -> None:
        """Delete the directory with all it holds, and give the lock up."""
        try:
            for file in sorted(self.path.iterdir()):
                file.unlink()
            self.path.rmdir()
        finally:
            self.close()

    def close(self) -> None:
        """Give the lock up. Again does nothing."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class FileSystem:
    """File operations of the writer, in one place so that tests can pass one that fails."""

    def create(self, path: Path, size: int, *, durable: bool) -> int:
        """Make a file of `size` zero bytes whose space is really there. Returns its descriptor.

        For a `durable` one the zeros are written and synced, not only allocated: each later fdatasync then has no
        extents to convert, and takes two thirds of the time.

        Raises:
            OSError: there is no space; nothing is left behind.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
            if durable:
                _fill(fd, size)
                os.fsync(fd)
                sync_directory(path.parent)
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        return fd

    def write(self, fd: int, data: bytes, offset: int) -> int:
        """Write at an offset. Returns how many bytes were written."""
        return os.pwrite(fd, data, offset)

    def sync(self, fd: int) -> None:
        """Make what was written durable."""
        os.fdatasync(fd)

    def syncer(self, log: Log) -> Syncer:
        """What syncs without holding up the running event loop."""
        return open_syncer(self.sync, log)

    def close(self, fd: int) -> None:
        """Give a descriptor up."""
        os.close(fd)


def log_nothing(_event: str, **_fields: Any) -> None:
    """Drop a log event; the default where no log is given."""


def _fill(fd: int, size: int) -> None:
    at = 0
    while at < size:
        at += os.pwrite(fd, ZEROS[: size - at], at)


def sync_directory(path: Path) -> None:
    """Make durable which files are in it.

    Raises:
        OSError: it cannot.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""The files of a writer's journal: preallocated segments, the directory's lock, the checkpoint.

<data_dir>/journal/<writer>/writer.lock   flock, held for the life of the process
                           /00000001.seg  entries, then zeros
                           /checkpoint    JSON [segment, offset]: where reading must start again
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

SUFFIX = ".seg"
PRIVATE_DIRECTORY, PRIVATE_FILE = 0o700, 0o600

Log: TypeAlias = Callable[..., None]
"""Hears what an operator should know: an event, its level, and fields."""


class Position(NamedTuple):
    """A place in a writer's journal: segment number (from 1) and byte offset. Compares in reading order."""

    segment: int
    offset: int


START = Position(1, 0)


class WriterDir:
    """One writer's directory, locked by this process until it is closed."""

    def __init__(self, path: Path) -> None:
        """Make the directory if it is missing, and lock it.

        Raises:
            BlockingIOError: a living writer holds it.
            OSError: it cannot be made.
        """
        _make_directory(path.parent)  # by itself: mkdir's mode is not for the parents it makes
        _make_directory(path)
        self.path = path
        self._lock = os.open(path / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise

    def segment(self, number: int) -> Path:
        """The file of a segment."""
        return self.path / f"{number:08d}{SUFFIX}"

    def segments(self) -> list[int]:
        """The numbers of the segments there are, in order."""
        return sorted(int(file.stem) for file in self.path.glob(f"*{SUFFIX}") if file.stem.isdecimal())

    def checkpoint(self) -> Position:
        """Where reading must start; the journal's start when nothing was kept or it cannot be read."""
        try:
            kept = msgspec.json.decode((self.path / "checkpoint").read_bytes(), type=Position)
        except (OSError, msgspec.DecodeError):
            return START
        return kept if kept.offset >= 0 else START

    def keep_checkpoint(self, position: Position) -> None:
        """Replace the checkpoint. Losing it costs time at the next start, nothing else, so it is not synced."""
        temporary = self.path / "checkpoint.new"
        with temporary.open("wb", opener=private) as file:
            file.write(msgspec.json.encode(position))
        temporary.replace(self.path / "checkpoint")

    def remove(self) -> None:
        """Delete the directory with all it holds, and give the lock up."""
        try:
            for file in self.path.iterdir():
                file.unlink(missing_ok=True)
            self.path.rmdir()
        finally:
            self.close()

    def close(self) -> None:
        """Give the lock up."""
        os.close(self._lock)


class Files:
    """The calls on the file system that can fail; tests pass one that does."""

    def create(self, path: Path, size: int) -> int:
        """Make a file of `size` zero bytes whose space is really there. Returns its descriptor.

        Raises:
            OSError: there is no space; nothing is left behind.
        """
        # Truncated, since one that could not be made may also have resisted being deleted.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            os.posix_fallocate(fd, 0, size)
            os.fsync(fd)
            _sync_directory(path.parent)
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


def private(path: str, flags: int) -> int:
    """Open a file so that one that is made is for nobody else; an opener for `open`."""
    return os.open(path, flags, PRIVATE_FILE)


def _make_directory(path: Path) -> None:
    if not path.is_dir():
        path.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

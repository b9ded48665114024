"""Files of a writer's journal: preallocated segments, the directory's lock, the checkpoint.

<data_dir>/journal/<writer>/writer.lock   flock, held until the writer closes or its process ends
                           /position      how far the writer is (`position_page.py`)
                           /000001.seg    entries, then zeros
                           /checkpoint    JSON {segment, offset}: where reading must start again
                           /free/         segments to be written again (`free_segments.py`)
                  /.new-<writer>          a directory that is being made: its lock may not be held yet
                  /.kept-<writer>         its writer has ended, and the record feed still reads it (`record_feed.py`)

The life of a segment file (`segment_writer.py` and `writer.py` move it on, then `directory_records.py`):

    none -- allocated --> spare -- rotate --> current -- rotate --> retired -- synced --> closed -- shipped --> free
     ^ |                  ^ |                                                                |                   | |
     '-' no space:        | '-- the writer closes --> deleted                      deleted <-'          deleted <' |
         0.5 s later      '---------------------------- renamed to the next number --------------------------------'

rotate:  the current segment is full, or a sync failed.
retired: stays open until it is synced. After a failed sync it is closed at once: its entries are written again.
shipped: the shipper has read past it, and no open request has entries in it. It is deleted if enough segments are free,
         or the writer has ended.
free:    deleted if it is not used for 10 minutes, after a failed sync, or if the disk is short of space.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias

import msgspec

from llm_gateway.journal.free_segments import NAME as FREE
from llm_gateway.journal.free_segments import FreeSegments
from llm_gateway.journal.listing import segments_in
from llm_gateway.journal.position_page import PageWords, map_page
from llm_gateway.journal.sync import Syncer, open_syncer

Log: TypeAlias = Callable[..., None]
"""Signature of the gateway's log: log(event, level="info", **fields)."""

ZEROS = bytes(16 * 1024)
"""Written again and again to fill a new segment.

Of larger pieces, Linux makes larger folios in its page cache, and each later write of a few hundred bytes walks through
all blocks of its folio. On ext4 it takes 20 to 36 µs of CPU after a sync where pieces of 1 to 16 MiB were written, and
8 to 9 µs with 16 KiB.
"""


class Position(NamedTuple):
    """A place in a writer's journal: segment number (from 1) and byte offset; orders as the journal is read."""

    segment: int
    offset: int


START = Position(1, 0)

HIDDEN = ".new-"
"""Prefix of the name of a directory that is being made."""

KEPT = ".kept-"
"""Prefix of the name of a directory whose writer has ended, and which the record feed still reads."""


class _Checkpoint(msgspec.Struct):
    segment: Annotated[int, msgspec.Meta(ge=1)]
    offset: Annotated[int, msgspec.Meta(ge=0)]


class JournalDir:
    """The files of one writer's directory, without its lock. Only one process at a time ships from it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def free(self) -> FreeSegments:
        """The segments that the writer can use again."""
        return FreeSegments(self.path)

    def segment(self, number: int) -> Path:
        """Return the path of segment `number`, whether it exists or not."""
        return self.path / f"{number:06d}.seg"

    def segments(self) -> list[int]:
        """Return the numbers of the existing segments, ascending; none if the directory does not exist.

        Raises:
            OSError: the directory cannot be listed.
        """
        return [number for number, _ in segments_in(self.path)]

    def checkpoint(self) -> Position:
        """Return where reading must start: the stored checkpoint, or the journal's start without a readable one."""
        try:
            kept = msgspec.json.decode((self.path / "checkpoint").read_bytes(), type=_Checkpoint)
        except (OSError, msgspec.DecodeError):
            return START
        return Position(kept.segment, kept.offset)

    def keep_checkpoint(self, position: Position) -> None:
        """Replace the checkpoint. It is not synced: losing it only costs time at the next start.

        Raises:
            OSError: the checkpoint cannot be written and stays as it was.
        """
        temporary = self.path / "checkpoint.new"
        temporary.touch(mode=0o600)
        temporary.write_bytes(msgspec.json.encode(_Checkpoint(*position)))
        temporary.replace(self.path / "checkpoint")


class LockableDir(JournalDir):
    """One writer's directory with its lock file open, so that a try to lock it needs no further descriptor."""

    def __init__(self, path: Path) -> None:
        """Open the lock file, without locking it.

        Raises:
            OSError: the directory does not exist, or its lock file cannot be created.
        """
        super().__init__(path)
        self._lock: int | None = os.open(path / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def lock(self) -> bool:
        """Lock the directory until it is closed. Returns False if another process or object holds the lock."""
        if self._lock is None:
            return False
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_in_place(self) -> bool:
        """Return False if the directory or its lock file was deleted, moved or replaced: its readers do not find it."""
        return self._lock is None or names_file(self.path / "writer.lock", self._lock)

    def is_on_file_system_of(self, folder: Path) -> bool:
        """Return whether the directory is, or was before it was deleted, on the file system of an existing folder.

        Raises:
            OSError: the folder does not exist.
        """
        return self._lock is not None and os.fstat(self._lock).st_dev == folder.stat().st_dev

    def remove(self) -> None:
        """Delete the directory with all its files, and release the lock."""
        try:
            for file in sorted(self.path.iterdir()):  # segments first: their format is known by the folder `free`
                if file.name == FREE:
                    FreeSegments(self.path).clear()
                    file.rmdir()
                else:
                    file.unlink()
            self.path.rmdir()
        finally:
            self.close()

    def close(self) -> None:
        """Release the lock. A second call has no effect."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class WriterDir(LockableDir):
    """One writer's directory, locked by this process until it is closed."""

    def __init__(self, path: Path) -> None:
        """Lock the directory.

        Raises:
            BlockingIOError: another process, or another WriterDir of this one, holds the lock.
            OSError: the directory does not exist, or its lock file cannot be created.
        """
        super().__init__(path)
        if not self.lock():
            self.close()
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    @classmethod
    def make(cls, path: Path, prepare: Callable[[Path], None] = lambda _folder: None) -> WriterDir:
        """Create a new directory durably and lock it. It appears at `path` locked, after `prepare(folder)` filled it.

        Raises:
            OSError: the directory cannot be created.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_directory(path.parent.parent)
        hidden = path.with_name(HIDDEN + path.name)
        hidden.mkdir(mode=0o700)
        directory = cls(hidden)
        try:
            prepare(hidden)
            hidden.rename(path)
            directory.path = path
            sync_directory(path.parent)
        except OSError:
            directory.remove()
            raise
        return directory


def names_file(path: Path, descriptor: int) -> bool:
    """Return False if the path leads nowhere, or not to the open file; True also if it cannot be looked at."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def find_writers(root: Path) -> list[Path]:
    """Return the directories of writers below the journal's directory, sorted; none if it does not exist.

    A directory that is still being made is left out: nobody may hold its lock yet.
    """
    return [path for path in _folders(root) if not path.name.startswith(".")]


def find_hidden(root: Path) -> list[Path]:
    """Return the directories that are being made, or were when the process was killed."""
    return [path for path in _folders(root) if path.name.startswith(HIDDEN)]


def find_kept(root: Path) -> dict[str, Path]:
    """Return the directories that the record feed still reads, by the names of their writers."""
    return {path.name.removeprefix(KEPT): path for path in _folders(root) if path.name.startswith(KEPT)}


def disk_bytes(root: Path) -> int:
    """Return the disk space of all files in the journal's directory: spare and free segments, copies of damaged ones.

    A file that vanishes meanwhile, or cannot be looked at, counts as nothing.
    """
    total, folders = 0, [root]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                else:
                    with suppress(OSError):
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


def _folders(root: Path) -> list[Path]:
    try:
        with os.scandir(root) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


class FileSystem:
    """File operations of the journal writer: the contract that tests implement to make a disk fail.

        class FullDisk(FileSystem):
            def create(self, path: Path, size: int, *, durable: bool) -> int:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    Order of calls: `map_page`, `create` for the first segment and `syncer` once, when the writer opens. Then `reuse` or
    `create` for each further segment, `write` to the current one, `sync` from the syncer, `close` once per descriptor,
    last. No call for a descriptor follows its `close`.
    """

    def map_page(self, path: Path) -> PageWords:
        """Map the page in which the writer publishes its position.

        Raises:
            OSError: the file cannot be mapped.
        """
        return map_page(path, writable=True)

    def create(self, path: Path, size: int, *, durable: bool) -> int:
        """Create a file of `size` zero bytes with its disk space allocated. Returns its file descriptor.

        Called on the event loop for the first segment, before any request is served; in a thread for all others.
        If `durable`, the zeros are written and synced, not only allocated: each later fdatasync then has no extents
        to convert and takes two thirds of the time.

        Raises:
            OSError: there is no space; the file is deleted.
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

    def reuse(self, free: Path, path: Path, size: int, *, is_synced: bool) -> int:
        """Move a free segment of `size` bytes to `path`, and open it. Called in a thread.

        If `is_synced`, entries will be synced, so the move is made durable too: after a power loss nobody reads where
        the file was.

        Raises:
            OSError: it is gone, has another size or a second name, or cannot be moved; nothing is left at `path`.
        """
        fd = os.open(free, os.O_RDWR | os.O_CLOEXEC)
        try:
            state = os.fstat(fd)
            if state.st_size != size or state.st_nlink > 1:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            free.rename(path)
            if is_synced:
                sync_directory(path.parent)
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        return fd

    def write(self, fd: int, data: bytes, offset: int) -> int:
        """Write `data` at `offset`. Returns the number of bytes written, which may be fewer (pwrite(2)).

        Called on the event loop, so that entries are in the kernel before a request goes upstream.
        """
        return os.pwrite(fd, data, offset)

    def sync(self, fd: int) -> None:
        """Make everything written to the file durable.

        Called by a syncer with a Python thread; C threads call fdatasync themselves (`libuv_fdatasync.py`).
        """
        os.fdatasync(fd)

    def syncer(self, log: Log) -> Syncer:
        """Return the syncer for the running event loop; called once, when the writer opens."""
        return open_syncer(self.sync, log)

    def close(self, fd: int) -> None:
        """Close a file descriptor; called in a thread, or on the event loop when the writer closes."""
        os.close(fd)


def log_nothing(_event: str, **_fields: Any) -> None:
    """Discard a log event; the default for callers that pass no log."""


def _fill(fd: int, size: int) -> None:
    at = 0
    while at < size:
        at += os.pwrite(fd, ZEROS[: size - at], at)


def sync_directory(path: Path) -> None:
    """Make the names of the files in a directory durable: fsync on the directory itself (fsync(2)).

    Raises:
        OSError: the directory cannot be opened or synced.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

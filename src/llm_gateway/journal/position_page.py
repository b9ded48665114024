"""Position of a journal writer, published to other processes in a memory-mapped file of its directory.

The file `position` has 4096 bytes: unsigned 64-bit integers in the machine's byte order, then zeros.

    byte  0  signature: the bytes of "llmgwpos"
          8  version of this layout
         16  segment_bytes: size of a segment
         24  position: segment number in the upper 32 bits, offset in the lower 32
         32  entries: number of entries before the position
         40  appended: number of entries accepted, written or still in the writer's memory
         48  closed: 1 once the writer has closed

The writer stores position, entries and appended in this order after each write to a segment; a reader loads entries
before position. So a reader sees no position beyond what is written, wherever the writer is or was killed:

- The position is stored after `pwrite` returned. The kernel then has the entries, and any process reads them. (On
  processors that reorder stores, the locks do it that the kernel and the interpreter release and take after the copy.)
- Segment and offset are one aligned 8-byte word, which is stored and loaded as a whole: a memoryview of format "Q"
  copies 8 bytes at once, where struct.pack_into("<Q") copies one byte after the other.
- Between two stores the position covers more entries than `entries` counts, never fewer. A flush then waits for the
  next look. (A processor that reorders the two loads may make a flush end one write too early; nothing is lost.)

After an error of the disk, and at closing, the words are written with `pwrite`: it raises, where a store into the
mapping of a file that cannot be written ends the process (SIGBUS). While that fails, too, the writer locks the file
(flock(2)), for which no disk is needed: it has accepted more entries than the page shows.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import sys
import time
from pathlib import Path
from typing import NamedTuple, Protocol

from llm_gateway.data_dir import is_locked

PAGE_NAME = "position"
PAGE_BYTES = 4096
VERSION = 2
READABLE = (1, VERSION)
"""Version 2 means that entries bear their segment's number (`frames.py`); the layout is that of version 1."""

_SIGNATURE = int.from_bytes(b"llmgwpos", sys.byteorder)
_SEGMENT_BYTES, _POSITION, _ENTRIES, _APPENDED, _CLOSED = range(2, 7)
"""Numbers of the 8-byte words after signature and version."""

_LOCK_TRIES, _LOCK_PAUSE_S = 20, 0.0005
"""Tries to lock the page, and seconds between them: a reader that looks for the lock holds it for some microseconds."""

_OFFSET_BITS = 32
_OFFSET = (1 << _OFFSET_BITS) - 1


class WrittenPosition(NamedTuple):
    """End of what a writer has written: `offset` in `segment`, after `entries` entries in all."""

    segment: int
    offset: int
    entries: int


class PageWords(Protocol):
    """8-byte words of a mapped page: a memoryview of format "Q", or what a test puts in its place."""

    def __getitem__(self, number: int, /) -> int: ...
    def __setitem__(self, number: int, value: int, /) -> None: ...
    def release(self) -> None:
        """Unmap the page."""


class PageUnreadable(Exception):
    """The page of a writer cannot be read by this version; the message says why."""


def create_page(folder: Path, segment_bytes: int) -> None:
    """Create the page of a new writer, at the start of segment 1, with its disk space allocated.

    Raises:
        OSError: the file exists, or there is no space for it.
        ValueError: a segment is 4 GiB or larger, so that an offset does not fit into 32 bits.
    """
    if segment_bytes > _OFFSET:
        raise ValueError("A journal segment must be smaller than 4 GiB.")
    words = struct.pack("5Q", _SIGNATURE, VERSION, segment_bytes, 1 << _OFFSET_BITS, 0)
    fd = os.open(folder / PAGE_NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        content = words.ljust(PAGE_BYTES, b"\0")
        while content:
            content = content[os.write(fd, content) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def map_page(path: Path, *, writable: bool) -> memoryview:
    """Map a page into memory as 8-byte words.

    Raises:
        OSError: the file cannot be opened or mapped.
        ValueError: the file is smaller than a page.
    """
    fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    try:
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        return memoryview(mmap.mmap(fd, PAGE_BYTES, access=access)).cast("Q")
    finally:
        os.close(fd)


class PageWriter:
    """Publisher of one writer's position; for the writer's event loop only."""

    def __init__(self, path: Path, words: PageWords) -> None:
        """Publish in the page at `path`, whose mapping is `words`.

        Raises:
            OSError: the page cannot be opened.
        """
        self._path = path
        self._words = words
        self._is_closed = False
        self._is_behind = False
        self._lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def publish(self, segment: int, offset: int, entries: int, appended: int) -> None:
        """Publish a new position, after the entries before it were written."""
        words = self._words
        words[_POSITION] = segment << _OFFSET_BITS | offset
        words[_ENTRIES] = entries
        words[_APPENDED] = appended
        if self._is_behind:
            self._note_behind(is_behind=False)

    def publish_counts(self, entries: int, appended: int) -> None:
        """Publish other numbers of entries at the same position, without a store into the mapping.

        Call it after an error of the disk. If the page cannot be written either, the numbers stay as they were, and
        readers learn that they are too low (`PageReader.is_behind`).
        """
        self._note_behind(is_behind=not self._write(_ENTRIES, entries, appended))

    def close(self) -> None:
        """Publish that nothing more will be written, and unmap the page. A second call has no effect."""
        if self._is_closed:
            return
        self._write(_CLOSED, 1)
        self._words.release()
        os.close(self._lock)
        self._is_closed = True

    def _write(self, number: int, *values: int) -> bool:
        """Write words into the file. Returns False if that is not possible."""
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.pwrite(fd, struct.pack(f"{len(values)}Q", *values), 8 * number)
            finally:
                os.close(fd)
        except OSError:
            return False
        return True

    def _note_behind(self, *, is_behind: bool) -> None:
        """Lock the file while the page shows too little, and unlock it afterwards.

        On a file system without locks nothing is noted: reports may lack entries until the disk can be written.
        """
        if is_behind == self._is_behind:
            return
        if not is_behind:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            self._is_behind = False
            return
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE_S)
            except OSError:  # no locks here
                return
            else:
                self._is_behind = True
                return


class Published(NamedTuple):
    """State of a writer as its page shows it; `appended` as in the layout above."""

    written: WrittenPosition
    appended: int
    is_closed: bool


def load(words: PageWords) -> Published:
    """Return what a page shows. Entries are loaded before the position, as the module's docstring explains."""
    is_closed, entries = bool(words[_CLOSED]), words[_ENTRIES]
    position = words[_POSITION]
    written = WrittenPosition(position >> _OFFSET_BITS, position & _OFFSET, entries)
    return Published(written, max(entries, words[_APPENDED]), is_closed)


class PageReader:
    """Reader of the page in a writer's directory, in any process."""

    def __init__(self, folder: Path) -> None:
        """Map the page.

        Raises:
            OSError: the file does not exist or cannot be opened.
            PageUnreadable: it has another version or size, or is not a page at all.
        """
        path = self._path = folder / PAGE_NAME
        size = path.stat().st_size
        if size != PAGE_BYTES:
            raise PageUnreadable(f"it has {size} bytes instead of {PAGE_BYTES}")
        self._words = map_page(path, writable=False)
        signature, version, self.segment_bytes = (self._words[number] for number in (0, 1, _SEGMENT_BYTES))
        if signature != _SIGNATURE or version not in READABLE:
            self.close()
            if signature != _SIGNATURE:
                raise PageUnreadable("it does not begin with the signature of a page")
            raise PageUnreadable(f"it has version {version}, and this gateway reads versions 1 and {VERSION}")

    def read(self) -> Published:
        """Return the current state."""
        return load(self._words)

    def is_behind(self) -> bool:
        """Return True while the writer has accepted entries that it cannot publish. Call it before `read`."""
        return is_locked(self._path)

    def close(self) -> None:
        """Unmap the page. A second call has no effect."""
        self._words.release()

"""Processes that share a limiter's memory: forks of the test, and stores at which a fork ends or stops itself."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import struct
import tempfile
from collections.abc import Callable
from typing import Any

from llm_gateway.host_memory import HEADER_WORDS, LOCKS_AT, WORD, WORKERS, HostMemory
from llm_gateway.limiter.shared import SharedLimiter
from llm_gateway.limiter.shared_keys import SharedKeyLimiter
from llm_gateway.limiter.shared_window import WindowTable


def limiter_of(memory: HostMemory, number: int, clock: Callable[[], float], table: WindowTable) -> SharedLimiter:
    """Open the limiter of providers or of service keys, as `table` tells, as the process `number`."""
    kind = SharedLimiter if table.has_models else SharedKeyLimiter
    return kind(memory, number, clock, table)


def fork(body: Callable[[], object]) -> int:
    """Run `body` in a fork of this process. Returns its process id; the exit code is 1 if it raises."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        body()
        code = 0
    finally:
        os._exit(code)


def end_of(pid: int) -> int:
    """Wait for the end of a fork. Returns its exit code, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def pages(descriptor: int) -> dict[int, bytes]:
    """Return the pages of a memory that hold something, by their place; without the locks in the first one."""
    found: dict[int, bytes] = {}
    place, end = 0, os.fstat(descriptor).st_size
    while place < end:
        try:
            place = os.lseek(descriptor, place, os.SEEK_DATA)
        except OSError:  # nothing but holes is left
            break
        page = os.pread(descriptor, mmap.PAGESIZE, place)
        if not place:
            page = page[: LOCKS_AT * WORD] + page[HEADER_WORDS * WORD :]
        if any(page):
            found[place] = page
        place += mmap.PAGESIZE
    return found


class Stores:
    """Counts the stores into shared memory, and sends this process `number` after the store `last`."""

    def __init__(self, last: int, number: signal.Signals = signal.SIGKILL) -> None:
        self.count = 0
        self.last = last
        self.number = number

    def __call__(self, view: Any) -> Any:
        return _Counted(view, self)


class _Counted:
    def __init__(self, view: Any, stores: Stores) -> None:
        self._view = view
        self._stores = stores

    def __getitem__(self, place: Any) -> Any:
        return self._view[place]

    def __setitem__(self, place: int, value: float) -> None:
        self._view[place] = value
        self._stores.count += 1
        if self._stores.count == self._stores.last:
            os.kill(os.getpid(), self._stores.number)


class RecordedStores:
    """Records the stores into shared memory, each as the word and its new value."""

    def __init__(self) -> None:
        self.stores: list[tuple[int, int]] = []

    def __call__(self, view: Any) -> Any:
        return _Recorded(view, self.stores)


class _Recorded:
    def __init__(self, view: Any, stores: list[tuple[int, int]]) -> None:
        self._view = view
        self._stores = stores

    def __getitem__(self, place: Any) -> Any:
        return self._view[place]

    def __setitem__(self, place: int, value: float) -> None:
        self._view[place] = value
        [word] = struct.unpack("q", struct.pack(self._view.format, value))
        self._stores.append((place, word))


class SharedClock:
    """A clock that all forks read, and that one of them sets; each fork tells when it found the window full."""

    def __init__(self, now: float) -> None:
        size = 8 * (1 + WORKERS)
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            self._memory = memoryview(mmap.mmap(file.fileno(), size)).cast("d")
        self._memory[0] = now

    def __call__(self) -> float:
        return self._memory[0]

    def add(self, seconds: float) -> None:
        self._memory[0] += seconds

    def note_full(self, number: int, now: float) -> None:
        """Tell that the process `number` found the window full at the time `now`."""
        self._memory[1 + number] = now

    def is_full(self) -> bool:
        """Return whether a process found the window full at the present time."""
        return max(self._memory[1:]) >= self._memory[0]


class Log:
    """Granted calls that all forks append: the second, and the tokens that stay counted."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - `close` closes it
        self._entries = struct.Struct("qq")
        fcntl.fcntl(self._file, fcntl.F_SETFL, os.O_APPEND)

    def add(self, second: int, tokens: int) -> None:
        """Append a call; a killed process leaves it whole or not at all."""
        self._file.write(self._entries.pack(second, tokens))

    def calls(self) -> list[tuple[int, int]]:
        """Return all calls."""
        descriptor = self._file.fileno()
        data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        return [(second, tokens) for second, tokens in self._entries.iter_unpack(data)]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

"""Run a function in a forked process, for work that would stop the event loop for long. At most one runs at a time.

A fork needs no protocol and no second copy of the configuration: the function sees everything that its caller does, and
what it changes is lost. It must not use files, sockets, locks or the event loop, since those are the parent's. The
process may use limited memory and CPU time; it ends with the function, or is killed.

    run ── fork ──▶ computing ── result through a pipe ──▶ ended, result returned
                        ├── exception ──▶ ended, exception raised
                        └── out of time or memory, or killed ──▶ ended, ForkFailed raised
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import resource
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias

MOST_BYTES = 1024 * 1024 * 1024
"""Memory that the process may use in addition to its parent's."""
MOST_CPU_S = 60
NICENESS = 5
READ_BYTES = 256 * 1024
STATM = Path("/proc/self/statm")
"""Sizes of this process in pages (proc(5), Linux)."""
HEAD_BYTES = 8
"""Length of the number that tells how long the pickled result is."""

Function: TypeAlias = Callable[[], tuple[Any, bytes]]
"""Returns a small result, which is pickled, and data, which is returned in pieces."""


class Portable(NamedTuple):
    """An exception without its traceback, which can be pickled and raised again and again.

    An exception that is kept and raised makes a reference cycle: its traceback holds the frame that holds it.
    """

    kind: type[Exception]
    arguments: tuple[Any, ...]
    fields: dict[str, Any]

    def exception(self) -> Exception:
        """Make the exception; it may not be buildable from its arguments."""
        made = self.kind.__new__(self.kind)
        made.args = self.arguments
        made.__dict__.update(self.fields)
        return made


MOST_WAITING = 16
"""Documents that are decoded or wait for it at once: each holds its body, and may take a second."""


class ForkFailed(Exception):
    """The process did not return a result; the message says why, in a few words."""


class Forks:
    """Forked processes, one after the other. `most_bytes`: memory of each beyond its parent's."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._lock = asyncio.Lock()
        self._waiting = 0

    async def run(self, function: Function, timeout_s: float) -> tuple[Any, list[bytes]]:
        """Return what `function` returns, the data in pieces. Waits for the process before, `timeout_s` in all.

        Raises:
            ForkFailed: the process needed too much time or memory, or was killed, or too many wait.
            Exception: what `function` raised.
        """
        if self._waiting >= MOST_WAITING:
            raise ForkFailed(f"{MOST_WAITING} documents wait already")
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout_s), self._lock:
                pieces = await self._output(function)
        except TimeoutError:
            raise ForkFailed("it took too long") from None
        except OSError as error:
            raise ForkFailed(f"no process could be started ({error.strerror})") from None
        finally:
            self._waiting -= 1
        return _result(pieces)

    async def _output(self, function: Function) -> list[bytes]:
        reading, writing = os.pipe()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
                pid = os.fork()
        except OSError:
            os.close(reading)
            os.close(writing)
            raise
        if pid == 0:
            _compute(function, writing, self._most_bytes)
        os.close(writing)
        try:
            return await _read(reading)
        except BaseException:  # edge: cancelled or out of time
            os.kill(pid, signal.SIGKILL)
            raise
        finally:
            os.close(reading)
            waiting = asyncio.get_running_loop().run_in_executor(None, os.waitpid, pid, 0)
            waiting.add_done_callback(lambda done: done.exception())


async def _read(reading: int) -> list[bytes]:
    """Read a pipe to its end; one read in each turn of the event loop."""
    os.set_blocking(reading, False)
    loop = asyncio.get_running_loop()
    pieces: list[bytes] = []
    while True:
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(reading, _wake, ready)
        try:
            await ready
        finally:
            loop.remove_reader(reading)
        piece = os.read(reading, READ_BYTES)
        if not piece:
            return pieces
        pieces.append(piece)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _result(pieces: list[bytes]) -> tuple[Any, list[bytes]]:
    """Split the output into the pickled result and the data."""
    head, taken = bytearray(), 0
    size = HEAD_BYTES
    for piece in pieces:
        if len(head) >= size:
            break
        head += piece
        taken += 1
        if len(head) >= HEAD_BYTES and size == HEAD_BYTES:
            size = HEAD_BYTES + int.from_bytes(head[:HEAD_BYTES], "big")
    if len(head) < size or size == HEAD_BYTES:
        raise ForkFailed("it was killed, perhaps since the system is out of memory")
    found, error = pickle.loads(memoryview(head)[HEAD_BYTES:size])  # noqa: S301 - the gateway's own process wrote it
    if error is not None:
        if error.kind is MemoryError:
            raise ForkFailed("it needed too much memory")
        raise error.exception()
    rest = bytes(head[size:])
    return found, [rest, *pieces[taken:]] if rest else pieces[taken:]


def _compute(function: Function, writing: int, most_bytes: int) -> NoReturn:
    """Run the function, write its result, and end the process (in the process itself)."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.closerange(3, writing)  # a client must see that its connection is closed, even while this process runs
        os.closerange(writing + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        os.nice(NICENESS)
        _limit(most_bytes)
        data = b""
        try:
            found, data = function()
            pickled = pickle.dumps((found, None))
        except Exception as error:  # edge: raised again in the parent
            pickled = pickle.dumps((None, Portable(type(error), error.args, vars(error))))
        _write(writing, len(pickled).to_bytes(HEAD_BYTES, "big") + pickled)
        _write(writing, data)
        status = 0
    finally:
        os._exit(status)


def _limit(most_bytes: int) -> None:
    """Limit the process's memory and CPU time, as far as the system does."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S))
        size = int(STATM.read_bytes().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + most_bytes, size + most_bytes))


def _write(writing: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(writing, view[:READ_BYTES]) :]

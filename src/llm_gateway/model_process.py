"""Handle of the embedded model's process, for the control process that started it or took it over.

On Linux one control process can leave it to the next: it is found by its id and the time of its start, and watched by a
descriptor (pidfd_open(2)), since only the process that has started it can wait for it. Elsewhere it ends with the
control process that has started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

TERMINATE_S = 5.0
"""Seconds between SIGTERM and SIGKILL."""
LAST_WORDS_BYTES = 2000
"""Bytes of the last output that are logged when the process ends."""
CAN_BE_LEFT = sys.platform == "linux" and hasattr(os, "pidfd_open")
"""Whether another process can go on with the model."""


class ModelProcess:
    """A running process. `output` is the read end of its output; None if another process has started it."""

    def __init__(self, pid: int, output: IO[bytes] | None = None) -> None:
        self.pid = pid
        self._output = output
        self._code: int | None = None
        self._watched = os.pidfd_open(pid) if CAN_BE_LEFT else None

    @classmethod
    def start(cls, command: Sequence[str], environment: Mapping[str, str], stdin: int, inherited: int) -> ModelProcess:
        """Start a process with this standard input, which inherits another descriptor.

        Raises:
            OSError: the system cannot start it.
        """
        ours, theirs = os.pipe()
        try:
            pid = os.posix_spawn(
                command[0],
                list(command),
                environment,
                # Duplicating a descriptor onto itself clears its close-on-exec flag.
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, given, number)
                    for given, number in ((stdin, 0), (theirs, 1), (theirs, 2), (inherited, inherited))
                ],
                setsid=True,  # Ctrl-C must reach only the gateway: requests in flight still need the model
            )
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        return cls(pid, os.fdopen(ours, "rb"))

    @classmethod
    def find(cls, description: Mapping[str, Any]) -> ModelProcess | None:
        """Return the process that another one has described; None if it has ended."""
        pid, started = description.get("pid"), description.get("started")
        if not CAN_BE_LEFT or not pid or not started:
            return None
        try:
            found = cls(pid)
        except OSError:
            return None
        if start_time(pid) != started:  # the id is another process's by now
            found.forget()
            return None
        return found

    def describe(self) -> dict[str, Any]:
        """Return what `find` needs."""
        return {"pid": self.pid, "started": start_time(self.pid)}

    def forget(self) -> None:
        """Stop watching the process."""
        if self._watched is not None:
            os.close(self._watched)
            self._watched = None

    async def follow(self) -> tuple[int | None, str]:
        """Wait for the end of the process. Returns exit code and last output, as far as this process can know them."""
        if self._output is None:
            return await self.wait(), ""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._output
        )
        last_words = b""
        try:
            while output := await reader.read(LAST_WORDS_BYTES):
                last_words = (last_words + output)[-LAST_WORDS_BYTES:]
        finally:
            transport.close()
        return await self.wait(), last_words.decode("utf-8", "replace").strip()

    async def wait(self) -> int | None:
        """Wait for the end of the process. Returns its exit code, None if another process has started it."""
        if self._code is None:
            if self._watched is not None:
                await _readable(self._watched)
                self._code = self._collect()
            else:
                self._code = await asyncio.to_thread(self._collect)
        return self._code

    def _collect(self) -> int | None:
        if self._output is None:
            return None
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    async def end(self) -> None:
        """Terminate the process, kill it if that takes too long, and wait for its end."""
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.wait(), TERMINATE_S)
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self.wait()
        self.forget()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._watched is not None:
                signal.pidfd_send_signal(self._watched, number)
            elif self._code is None:
                os.kill(self.pid, number)


async def _readable(descriptor: int) -> None:
    """Wait until a descriptor can be read; that of a process can once it has ended."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)


def start_time(pid: int) -> str:
    """Return when a process was started, in the system's ticks since its boot; "" if there is none (proc(5), stat)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""

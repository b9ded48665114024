"""One child process of the supervisor: started, ready, ended, started again after a pause."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket

from llm_gateway.inherited import DROPPED, PREPARED, READY, RETIRE, STOP, Inherited, to_arguments
from llm_gateway.supervisor.launcher import Launch

TYPE_CHECKING = False  # as typing's, which takes half a megabyte of the supervisor's memory to import
if TYPE_CHECKING:
    from typing import Any

    from llm_gateway.supervisor.log_lines import SupervisorLog

STABLE_S = 5.0
"""A child that lived this many seconds is started again without a pause."""
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
KEPT_BYTES = 4096
"""Bytes of a leash that are kept in case a line is not complete."""
DROPPED_AT_ONCE = 100
"""Lines about dropped log lines that are sent together."""


class Child:
    """A control process or a worker, over all its restarts.

    `pid` is None while it does not run. `was_ready` stays True from the first time that it was ready, `is_ready` holds
    for the running process; a control process `is_prepared` once it waits only for the end of the one before it.
    `restart_at` is the time of the next start, None if none is due. `kill_at` is the time until which a child that
    `is_retiring` can end by itself.
    """

    def __init__(self, name: str, module: str, settings_file: int, number: int | None = None) -> None:
        self.name = name
        self.number = number
        self.settings_file = settings_file
        self.pid: int | None = None
        self.is_ready = False
        self.was_ready = False
        self.is_prepared = False
        self.is_retiring = False
        self.kill_at = math.inf
        self.restart_at: float | None = None
        self._module = module
        self._leash: socket.socket | None = None
        self._received = b""
        self._started_at = 0.0
        self._pause_s = 0.0

    def save(self) -> dict[str, Any]:
        """Return a running or waiting child as JSON values, for `restore` in the same process."""
        return {
            "name": self.name,
            "module": self._module,
            "number": self.number,
            "pid": self.pid,
            "leash": self.leash,
            "received": self._received.decode("latin-1"),
            "is_ready": self.is_ready,
            "was_ready": self.was_ready,
            "is_prepared": self.is_prepared,
            "started_at": self._started_at,
            "restart_at": self.restart_at,
            "pause_s": self._pause_s,
        }

    @classmethod
    def restore(cls, saved: dict[str, Any], settings_file: int) -> Child:
        """Return the child that `save` described.

        Raises:
            OSError: its leash is not open.
        """
        child = cls(saved["name"], saved["module"], settings_file, saved["number"])
        child.pid, child.restart_at = saved["pid"], saved["restart_at"]
        child.is_ready, child.was_ready, child.is_prepared = (
            saved["is_ready"],
            saved["was_ready"],
            saved["is_prepared"],
        )
        child._received = saved["received"].encode("latin-1")
        child._started_at, child._pause_s = saved["started_at"], saved["pause_s"]
        if saved["leash"] is not None:
            child._leash = socket.socket(fileno=saved["leash"])
            child._leash.setblocking(False)
        return child

    def start(self, launch: Launch, inherited: Inherited, lock: int, now: float) -> None:
        """Start the process. The leash of `inherited` is made here.

        Raises:
            OSError: the system cannot start a process.
        """
        self._started_at = now
        self.restart_at = None
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            inherited.leash = theirs.fileno()
            descriptors = {number: number for number in (*inherited.descriptors, lock)}
            try:
                self.pid = launch(self._module, to_arguments(inherited), descriptors)
            except OSError:
                ours.close()
                raise
        self._leash, self._received, self.is_ready, self.is_prepared = ours, b"", False, False

    @property
    def leash(self) -> int | None:
        """The supervisor's end of the leash, None if it is closed."""
        return self._leash.fileno() if self._leash is not None else None

    def read_leash(self) -> None:
        """Note that the process is prepared or ready if it has written so."""
        if self._leash is None:
            return
        data = b""
        try:
            data = self._leash.recv(KEPT_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:
            pass
        if not data:
            self._close_leash()
            return
        self._received = (self._received + data)[-KEPT_BYTES:]
        if READY in self._received:
            self.is_ready = self.was_ready = True
        if PREPARED in self._received:
            self.is_prepared = True

    def retire(self, kill_at: float) -> None:
        """Ask the process to end because others have its work. It is not started again."""
        self.is_retiring, self.kill_at, self.restart_at = True, kill_at, None
        if self.number is None:
            self.signal(signal.SIGTERM)
        else:
            self._tell(RETIRE)

    def stop(self, number: int) -> None:
        """Send the process a signal because the whole gateway stops."""
        self._tell(STOP)
        self.signal(number)

    def dropped(self, log: SupervisorLog) -> None:
        """Tell a control process how many lines of the supervisor's log could not be written."""
        if self.is_ready:
            self._tell(DROPPED * log.take_dropped(DROPPED_AT_ONCE))

    def _tell(self, line: bytes) -> None:
        if self._leash is not None:
            with contextlib.suppress(OSError):  # it has ended
                self._leash.send(line)

    def signal(self, number: int) -> None:
        """Send a signal to the process; SIGTERM in place of SIGINT before it is ready.

        Python turns SIGINT into an exception until the process has installed its handlers; SIGTERM ends it.
        """
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number if self.is_ready or number != signal.SIGINT else signal.SIGTERM)

    def ended(self) -> None:
        """Note that the process has ended."""
        if not self.is_ready:
            self.read_leash()  # it may have written that it is ready just before
        self.pid, self.is_ready = None, False
        self._close_leash()

    def schedule_restart(self, now: float) -> float:
        """Set the time of the next start, and return the seconds until then: longer each time if it ends soon."""
        if now - self._started_at >= STABLE_S:
            self._pause_s = 0.0
            pause_s = 0.0
        else:
            self._pause_s = min(self._pause_s * 2 or FIRST_PAUSE_S, LONGEST_PAUSE_S)
            pause_s = self._pause_s
        self.restart_at = now + pause_s
        return pause_s

    def _close_leash(self) -> None:
        if self._leash is not None:
            self._leash.close()
            self._leash = None

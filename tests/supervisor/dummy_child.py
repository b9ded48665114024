"""Stand-in for control and workers: writes what happens to it into a file, and ends as a table of orders says.

Run as `dummy_child.py MODULE ARGUMENTS`. The folder in DUMMY_FOLDER takes the file `NAME.PID` with a line for each
event, and can hold the file `NAME.json` with orders: `ends_with` (an exit code, before it is ready), `late_s` (seconds
until it is ready), `ignores` (stops only for its second signal), `stop_code` (the exit code at the stop), `listens`
(accepts connections on the inherited socket until a signal), `locks` (is ready only once no other process holds a lock,
as the real control). A worker that is told to retire ends once the folder holds no file `drain`.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from llm_gateway.inherited import PREPARED, READY, RETIRE, STOP, Inherited, from_arguments
from llm_gateway.process_setup import protect_process


def main() -> int:
    """Live until a signal, or until the supervisor has ended. Returns the exit code."""
    protect_process()
    return Dummy(from_arguments(sys.argv[sys.argv.index("--settings") :])).live()


class Dummy:
    """The child; `live` is its life."""

    def __init__(self, inherited: Inherited) -> None:
        self.signals = signals_as_data()
        self.name = "control" if inherited.number is None else f"worker{inherited.number}"
        self.folder = Path(os.environ["DUMMY_FOLDER"])
        self.orders = read_orders(self.folder / f"{self.name}.json")
        self.inherited = inherited
        self.leash = socket.socket(fileno=inherited.leash)
        self.wait = select.poll()
        self.wait.register(self.signals, select.POLLIN)
        self.wait.register(self.leash, select.POLLIN)

    def note(self, event: str) -> None:
        """Write down what happened."""
        with (self.folder / f"{self.name}.{os.getpid()}").open("a") as file:
            file.write(f"{event}\n")
        with (self.folder / "order").open("a") as file:
            file.write(f"{self.name} {event}\n")

    def live(self) -> int:
        """Become ready and go on to the end. Returns the exit code."""
        self.note("started")
        if "ends_with" in self.orders:
            return int(self.orders["ends_with"])
        listeners = [accepting(self.inherited.listener)] if self.orders.get("listens") else []
        self.become_ready()
        patience = 2 if self.orders.get("ignores") else 1
        while patience:
            for descriptor, _ in self.wait.poll():
                if descriptor == self.signals:
                    while listeners:
                        listeners.pop().close()
                    patience -= self.take_signals()
                    continue
                received = self.read_leash()
                if RETIRE in received:
                    self.retire()
                    return 0
                if not received:
                    self.note("orphaned")
                    drain(self.folder)
                    return 0
                assert received == STOP, received
        self.note("stopped")
        return int(self.orders.get("stop_code", 0))

    def read_leash(self) -> bytes:
        """Return what the supervisor has written; nothing if it is dead, whether it had read all lines or not."""
        try:
            return self.leash.recv(100)
        except ConnectionResetError:
            return b""

    def become_ready(self) -> None:
        """Write to the leash what is expected, unless something happens before."""
        if self.name == "control":
            self.leash.sendall(PREPARED)
        if self.orders.get("locks"):
            self.locked = (self.folder / "lock").open("w")
            while not has_taken(self.locked.fileno()) and not self.wait.poll(5):
                pass
        if not self.wait.poll(self.orders.get("late_s", 0) * 1000):
            self.leash.sendall(READY)
            self.note("ready")

    def take_signals(self) -> int:
        """Write down the signals that have arrived. Returns their number."""
        numbers = os.read(self.signals, 100) if select.select([self.signals], [], [], 0)[0] else b""
        for number in numbers:
            self.note(signal.Signals(number).name)
        return len(numbers)

    def retire(self) -> None:
        """End once the folder holds no file `drain`, or at a signal."""
        self.note("retired")
        while (self.folder / "drain").exists() and not self.take_signals():
            select.select([], [], [], 0.01)
        self.note("stopped")


def read_orders(path: Path) -> Any:
    """Return the orders in a file; none if it does not exist."""
    return json.loads(path.read_text()) if path.exists() else {}


def has_taken(descriptor: int) -> bool:
    """Take a lock that no other process holds. Returns whether it did."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def signals_as_data() -> int:
    """Return a descriptor from which the numbers of arriving signals can be read."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return reader


def accepting(descriptor: int | None) -> socket.socket:
    """Return the inherited socket, which accepts connections from now on."""
    listener = socket.socket(fileno=descriptor)
    listener.listen()
    return listener


def drain(folder: Path) -> None:
    """Wait while the folder holds a file `drain`."""
    while (folder / "drain").exists():
        select.select([], [], [], 0.01)


if __name__ == "__main__":
    sys.exit(main())

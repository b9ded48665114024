"""Stand-in for control and workers: writes what happens to it into a file, and ends as a table of orders says.

Run as `dummy_child.py MODULE ARGUMENTS`. The folder in DUMMY_FOLDER takes the file `NAME.PID` with a line for each
event, and can hold the file `NAME.json` with orders: `ends_with` (an exit code, before it is ready), `late_s` (seconds
until it is ready), `ignores` (stops only for its second signal), `stop_code` (the exit code at the stop), `listens`
(accepts connections on the inherited socket until a signal).
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from llm_gateway.inherited import READY, from_arguments


def main() -> int:
    """Live until a signal, or until the supervisor has ended. Returns the exit code."""
    signals = signals_as_data()
    inherited = from_arguments(sys.argv[sys.argv.index("--settings") :])
    name = "control" if inherited.number is None else f"worker{inherited.number}"
    folder = Path(os.environ["DUMMY_FOLDER"])
    journal = folder / f"{name}.{os.getpid()}"

    def note(event: str) -> None:
        with journal.open("a") as file:
            file.write(f"{event}\n")
        with (folder / "order").open("a") as file:
            file.write(f"{name} {event}\n")

    orders = read_orders(folder / f"{name}.json")
    note("started")
    if "ends_with" in orders:
        return int(orders["ends_with"])
    listeners = [accepting(inherited.listener)] if orders.get("listens") else []
    leash = socket.socket(fileno=inherited.leash)
    wait = select.poll()
    wait.register(signals, select.POLLIN)
    wait.register(leash, select.POLLIN)
    if not wait.poll(orders.get("late_s", 0) * 1000):
        leash.sendall(READY)
        note("ready")
    patience = 2 if orders.get("ignores") else 1
    while patience:
        for descriptor, _ in wait.poll():
            if descriptor == signals:
                while listeners:
                    listeners.pop().close()
                for number in os.read(signals, 100):
                    note(signal.Signals(number).name)
                    patience -= 1
            elif not leash.recv(100):
                note("orphaned")
                drain(folder)
                return 0
    note("stopped")
    return int(orders.get("stop_code", 0))


def read_orders(path: Path) -> Any:
    """Return the orders in a file; none if it does not exist."""
    return json.loads(path.read_text()) if path.exists() else {}


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

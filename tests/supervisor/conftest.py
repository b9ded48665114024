"""Fixture `gateway`: supervisors as real processes, whose children are dummies that write down what happens."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import free_port
from tests.fork_server import ForkedProcess, fork_server
from tests.waiting import wait_until

PROGRAM = Path(__file__).with_name("dummy_gateway.py")
START_S = 20.0


class DummyGateway:
    """A supervisor process and its dummies; settings are keyword arguments.

    The supervisor is forked from the fork server, its children from it; with `spawns` all are programs of their own.
    `close_fds=False` leaves such a supervisor the test's inheritable descriptors.
    """

    process: subprocess.Popen[bytes] | ForkedProcess

    def __init__(
        self, folder: Path, *, leaving_s: float = 15.0, close_fds: bool = True, spawns: bool = False, **settings: object
    ) -> None:
        self.folder = folder
        values = {"port": free_port(), "data_dir": folder / "data", "accept_seconds": 0, "drain_seconds": 1, **settings}
        self.port = str(values["port"])
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("LLM_GATEWAY_")}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        ours = {f"LLM_GATEWAY_{name.upper()}": str(value) for name, value in values.items()}
        path = (str(PROGRAM.parent), str(PROGRAM.parents[2]), *filter(None, (kept.get("PYTHONPATH"),)))
        own = {"DUMMY_FOLDER": str(folder), "DUMMY_LEAVING_S": str(leaving_s), "PYTHONPATH": os.pathsep.join(path)}
        if not spawns:
            own["DUMMY_FORKS"] = "1"
        environment = kept | ours | own
        self._outputs = (folder / f"out.{self.port}", folder / f"err.{self.port}")
        with (
            self._outputs[0].open("wb") as out,
            self._outputs[1].open("wb") as err,
            Path(os.devnull).open("rb") as nothing,
        ):
            if spawns:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", PROGRAM.stem],
                    env=environment,
                    stdin=nothing,
                    stdout=out,
                    stderr=err,
                    cwd=folder,
                    start_new_session=True,
                    close_fds=close_fds,
                )
            else:
                standard = (nothing.fileno(), out.fileno(), err.fileno())
                module = f"tests.supervisor.{PROGRAM.stem}"
                self.process = fork_server().start(module, (), standard, folder, environment)

    @property
    def log(self) -> list[dict[str, object]]:
        """The events logged so far."""
        return [json.loads(line) for line in self._outputs[0].read_text().splitlines()]

    @property
    def errors(self) -> str:
        """The standard error so far."""
        return self._outputs[1].read_text()

    def pids(self, name: str) -> list[int]:
        """Return the processes of a child, in no order."""
        return [int(path.suffix[1:]) for path in self.folder.glob(f"{name}.*") if path.suffix != ".json"]

    def events(self) -> list[str]:
        """Return the events of all dummies in order: `control started`."""
        path = self.folder / "order"
        return path.read_text().splitlines() if path.exists() else []

    def wait_for(self, event: str, times: int = 1) -> None:
        """Wait until the dummies have written an event this many times."""
        wait_until(lambda: self.events().count(event) >= times or self.process.poll() is not None, START_S)
        assert self.events().count(event) >= times, (self.events(), self.errors)

    def order(self, name: str, **orders: object) -> None:
        """Give a dummy orders for its next start."""
        (self.folder / f"{name}.json").write_text(json.dumps(orders))

    def ended(self) -> int:
        """Wait for the end of the supervisor. Returns its exit code."""
        return self.process.wait(START_S)

    def stop(self) -> int:
        """Send SIGTERM and wait for the end. Returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def kill_all(self) -> None:
        """Kill what still runs."""
        self.process.kill()
        self.process.wait()
        for name in ("control", "worker*"):
            for pid in self.pids(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


Start = Callable[..., DummyGateway]
Order = Callable[..., None]


def starting(folder: Path, **usual: Any) -> Iterator[Start]:
    """Give a function that starts a supervisor in the folder; kill at the end what still runs."""
    running: list[DummyGateway] = []

    def start_one(**settings: Any) -> DummyGateway:
        running.append(DummyGateway(folder, **usual, **settings))
        return running[-1]

    yield start_one
    for gateway in running:
        gateway.kill_all()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a supervisor with these settings in the test's folder."""
    yield from starting(tmp_path)


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Start]:
    """Return a function like `start`, whose supervisor and children are programs of their own."""
    yield from starting(tmp_path, spawns=True)


@pytest.fixture
def order(tmp_path: Path) -> Order:
    """Return a function that gives a dummy orders before the start."""

    def write(name: str, **orders: object) -> None:
        (tmp_path / f"{name}.json").write_text(json.dumps(orders))

    return write

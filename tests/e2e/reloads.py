"""Reload a gateway, look at its processes meanwhile, and keep clients of all kinds busy at it."""

from __future__ import annotations

import http.client
import itertools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from llm_gateway.data_dir import RunningGateway, running_gateway
from tests.e2e.process import GatewayProcess, send
from tests.e2e.streaming_vendor import BEGIN, DONE, Pause, delta, finish, usage
from tests.fork_server import COMMAND_LINE, fork_server

KEPT = 4
"""Clients that keep their connection."""
NEW = 2
"""Clients that make a connection for each request."""
STREAMS = 3
"""Clients that read streams."""
PAUSE_S = 0.01
"""Seconds between two requests of a client."""
CHAT: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "Count"}]}
STEPS = (BEGIN, delta(content="one"), Pause(0.4), delta(content="two"), Pause(0.4), finish(), usage(3, 2), DONE)
"""A stream that takes a while, with both its words."""


def reload(gateway: GatewayProcess, *arguments: str) -> tuple[int, str, str]:
    """Run `llm-gateway reload` in the gateway's directory. Returns exit code, output and errors."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("LLM_GATEWAY_")}
    return fork_server().run(COMMAND_LINE, ["reload", *arguments], gateway.directory, given)


def children(pid: int) -> list[tuple[int, str]]:
    """Return the children of a process: process id and module."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            found.append((int(child), Path(f"/proc/{child}/cmdline").read_text()))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def size(pid: int) -> tuple[int, int]:
    """Return the number of a process's open descriptors, and its resident memory in KiB."""
    [resident] = [line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in line]
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), int(resident)


def state(gateway: GatewayProcess) -> RunningGateway:
    found = running_gateway(gateway.directory / "data")
    assert found is not None
    return found


class Load:
    """`with Load(gateway) as load`: clients send requests all the time; `errors` has what went wrong.

    `most_children` is the largest number of the supervisor's children that was seen, `managed` the status of each
    request of the management API, and the seconds that it took. On a busy machine one can wait longer than it is kept.
    """

    def __init__(self, gateway: GatewayProcess) -> None:
        self.gateway = gateway
        self.errors: list[str] = []
        self.served = itertools.count()
        self.streamed = itertools.count()
        self.managed: list[tuple[int, float]] = []
        self.most_children = 0
        self._ends = threading.Event()
        self._pool = ThreadPoolExecutor(KEPT + NEW + STREAMS + 2)

    def __enter__(self) -> Load:
        clients: list[Callable[[], None]] = [self._keep] * KEPT + [self._call] * NEW + [self._stream] * STREAMS
        clients.append(self._manage)
        self._running = [self._pool.submit(self._repeat, client) for client in clients]
        self._running.append(self._pool.submit(self._watch))
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for one in self._running:
            one.result()
        self._pool.shutdown()

    def _repeat(self, client: Callable[[], None]) -> None:
        while not self._ends.is_set():
            try:
                client()
            except (OSError, http.client.HTTPException) as error:
                self.errors.append(f"{client.__name__}: {error!r}")

    def _watch(self) -> None:
        while not self._ends.wait(0.02):
            self.most_children = max(self.most_children, len(children(self.gateway.process.pid)))

    def _keep(self) -> None:
        """Send requests on one connection until the gateway announces its end."""
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=60)
        try:
            while not self._ends.wait(PAUSE_S):
                answer = send(connection, "POST", "/v1/chat/completions", CHAT, cache_control="no-store")
                self._check(answer.status == 200, f"kept: {answer.status} {answer.body!r}")
                next(self.served)
                if answer.headers["connection"] == "close":
                    return
        finally:
            connection.close()

    def _call(self) -> None:
        answer = self.gateway.call("POST", "/v1/chat/completions", CHAT, cache_control="no-store")
        self._check(answer.status == 200, f"new: {answer.status} {answer.body!r}")
        next(self.served)
        self._ends.wait(PAUSE_S)

    def _stream(self) -> None:
        body = {**CHAT, "model": "streamer-1", "stream": True}
        answer = self.gateway.call("POST", "/v1/chat/completions", body, cache_control="no-store")
        whole = answer.status == 200 and answer.body.endswith(DONE) and b"one" in answer.body and b"two" in answer.body
        self._check(whole, f"stream: {answer.status} {answer.body!r}")
        next(self.served)
        next(self.streamed)

    def _manage(self) -> None:
        begun = time.monotonic()
        answer = self.gateway.call("GET", "/api/v1/providers")
        self.managed.append((answer.status, time.monotonic() - begun))
        self._ends.wait(PAUSE_S)

    def _check(self, holds: bool, problem: str) -> None:
        if not holds:
            self.errors.append(problem)

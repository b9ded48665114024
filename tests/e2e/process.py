"""Run the gateway as a separate process, stop it with signals, and send it real HTTP."""

from __future__ import annotations

import functools
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from tests.fork_server import GATEWAY, USUAL, ForkedProcess, fork_server
from tests.gateway_processes import ProcessId, descendants, wait_for_end
from tests.waiting import wait_until

COMMAND = Path(sys.executable).with_name("llm-gateway")
KEY = "dev-gateway-key"
START_S = 60.0
STOP_S = 30.0


@dataclass(frozen=True)
class Response:
    """Status, headers and body of a response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class GatewayProcess:
    """`with GatewayProcess(directory) as gateway: gateway.ask("Hello")`; leaving it asserts a graceful stop.

    Its working directory is `directory`, its data directory `directory/data`, so that another one in the same directory
    uses the same data. Settings are keyword arguments: `accept_seconds=2`. The process is forked from one that has
    imported everything, and a new data directory has a migrated database: migrations take 70 ms of CPU time.
    """

    surroundings = USUAL

    def __init__(self, directory: Path, **settings: object) -> None:
        self.directory = directory
        self.port = int(str(settings.get("port") or free_port()))
        self.log_file = directory / f"gateway-{self.port}.log"
        values = {"port": self.port, "local_model": "false", "accept_seconds": 0, **settings}
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("LLM_GATEWAY_")}
        self._environment = kept | {f"LLM_GATEWAY_{name.upper()}": str(value) for name, value in values.items()}
        self._process: ForkedProcess | subprocess.Popen[bytes] | None = None
        self._orphans: list[ProcessId] = []

    def launch(self, stdout: int | None = None) -> None:
        """Start the process without waiting. Its log goes to `log_file`, or to the descriptor `stdout`."""
        assert self._process is None or self._process.poll() is not None, "it runs already"
        self._provide_database()
        with self.log_file.open("wb") as log, Path(os.devnull).open("rb") as nothing:
            errors = log.fileno()
            self._process = self._start(nothing.fileno(), errors if stdout is None else stdout, errors)

    def _provide_database(self) -> None:
        """Create the usual data directory with a migrated database, unless it exists or another one is configured."""
        data = self.directory / "data"
        if not data.exists() and not {"LLM_GATEWAY_DATA_DIR", "LLM_GATEWAY_DATABASE_URL"} & self._environment.keys():
            write_migrated(data / "gateway.db")

    def _start(self, *descriptors: int) -> ForkedProcess | subprocess.Popen[bytes]:
        return fork_server().start(GATEWAY, (), descriptors, self.directory, self._environment, self.surroundings)

    def __enter__(self) -> Self:
        self.launch()
        self.wait_until_ready()
        return self

    def wait_until_ready(self) -> None:
        """Return once the gateway is ready."""
        deadline = time.monotonic() + START_S
        while True:
            code = self.process.poll()
            assert code is None, f"ended with {code} instead of starting:\n{self.log}"
            assert time.monotonic() < deadline, f"is not ready in time:\n{self.log}"
            try:
                if self.call("GET", "/readyz", key=None).status == 200:
                    return
            except OSError:
                time.sleep(0.05)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code = self.stop()
        self.wait_for_orphans()
        if kind is None:
            assert code in (0, -signal.SIGKILL), f"ended with {code}:\n{self.log}"
            assert "Traceback" not in self.log

    @property
    def process(self) -> ForkedProcess | subprocess.Popen[bytes]:
        assert self._process is not None, "it was not started"
        return self._process

    @property
    def log(self) -> str:
        """The log so far."""
        return self.log_file.read_text(errors="replace")

    def stop(self) -> int:
        """Send SIGTERM, unless the process has ended. Returns the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.ended()

    def ended(self) -> int:
        """Wait for the end of the supervisor, and with it of all processes. Returns the exit code."""
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """Send SIGKILL to all processes, as a crash of the machine ends them, and wait for their end."""
        self._kill_supervisor(kill_children=True)
        self.wait_for_orphans()

    def kill_supervisor(self) -> None:
        """Send SIGKILL to the supervisor alone, and wait for its end. Its children go on as orphans."""
        self._kill_supervisor(kill_children=False)

    def wait_for_orphans(self) -> None:
        """Wait until the children of a killed supervisor have ended."""
        try:
            wait_for_end(self._orphans, STOP_S)
        finally:
            self._kill_orphans()

    def _kill_supervisor(self, *, kill_children: bool) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGSTOP)  # so that it starts no child again
            self._orphans += descendants(self.process.pid)
        if kill_children:
            self._kill_orphans()
        self.process.kill()
        self.process.wait()

    def _kill_orphans(self) -> None:
        for orphan in self._orphans:
            orphan.signal(signal.SIGKILL)
        wait_for_end(self._orphans)

    @property
    def pids(self) -> list[int]:
        """Process ids of the supervisor and of all that it has started."""
        return [self.process.pid, *(child.pid for child in descendants(self.process.pid))]

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers that run now; waits until one runs."""
        return self._children("worker")

    @property
    def worker_pid(self) -> int:
        """Process id of the only worker; waits while it is started again."""
        [pid] = self._children("worker")
        return pid

    @property
    def control_pid(self) -> int:
        """Process id of the control process; waits while it is started again."""
        [pid] = self.control_pids
        return pid

    @property
    def control_pids(self) -> list[int]:
        """Process ids of the control processes: two during a replacement."""
        return self._children("control")

    def _children(self, role: str) -> list[int]:
        found: list[int] = []

        def are_there() -> bool:
            found[:] = [child.pid for child in descendants(self.process.pid) if child.role == role]
            return bool(found)

        wait_until(are_there, START_S)
        return found

    def call(self, method: str, path: str, body: object = None, *, key: str | None = KEY, **headers: str) -> Response:
        """Send one request, with a JSON body, on a new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            return send(connection, method, path, body, key=key, **headers)
        finally:
            connection.close()

    def send(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> Response:
        """Send one request with the given text, on a new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Response(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def ask(self, prompt: str = "Hello", *, no_store: bool = True, timeout_ms: int = 60_000, **fields: Any) -> Response:
        """Send POST /generate, which bypasses the cache unless `cache_control` is given."""
        body = {"user_id": "customer", "service": "e2e", "prompt": prompt, **fields}
        headers = {"cache_control": "no-store"} if no_store else {}
        return self.call("POST", "/api/v1/generate", body, x_request_timeout_ms=str(timeout_ms), **headers)

    def summary(self) -> Any:
        """Return the response of GET /usage/summary."""
        return self.call("GET", "/api/v1/usage/summary").json

    def provider(self, name: str, base_url: str, model: str = "ok", **fields: object) -> str:
        """Create a provider with prices and high rate limits. Returns its path."""
        body = {
            "name": name, "display_name": name, "api_key": "sk-test", "models": [model], "base_url": base_url,
            "prices": {model: {"input": 1, "output": 2}}, "rate_limit_rpm": 100_000, "rate_limit_tpm": 10**9, **fields,
        }  # fmt: skip
        response = self.call("POST", "/api/v1/providers", body)
        assert response.status == 201, response.body
        return f"/api/v1/providers/{response.json['id']}"


class CommandProcess(GatewayProcess):
    """A gateway started by `llm-gateway serve` with these flags, for tests of the start and of memory.

    Its first start creates the data directory and the database.
    """

    command = COMMAND

    def __init__(self, directory: Path, *flags: str, **settings: object) -> None:
        super().__init__(directory, **settings)
        self._flags = flags

    def _provide_database(self) -> None: ...

    def _start(self, *descriptors: int) -> subprocess.Popen[bytes]:
        stdin, stdout, stderr = descriptors
        return subprocess.Popen(
            [self.command, "serve", *self._flags],
            env=self._environment,
            cwd=self.directory,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )


def write_migrated(file: Path) -> None:
    """Write a migrated database with the modes that the gateway gives its files and directories."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_bytes(migrated_database())


@functools.cache
def migrated_database() -> bytes:
    """Return the contents of a database after all migrations, without rows."""
    from llm_gateway.store.database import Database  # not installed beside the client libraries

    with TemporaryDirectory() as directory:
        file = Path(directory) / "gateway.db"
        database = Database.open(f"sqlite:///{file}", fsync=False)
        database.migrate()
        database.close()
        return file.read_bytes()


def send(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: object = None,
    *,
    key: str | None = KEY,
    **headers: str,
) -> Response:
    """Send one request on this connection."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if key is not None:
        given["x-service-key"] = key
    connection.request(method, path, None if body is None else json.dumps(body), given)
    answer = connection.getresponse()
    return Response(answer.status, answer.headers, answer.read())


def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, at most 20 seconds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "It never came to be"
        time.sleep(0.01)


GIVEN_PORTS: set[int] = set()


def free_port() -> int:
    """Return a port that is free now, another one each time: the system may name the same one twice in a row."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in GIVEN_PORTS:
            GIVEN_PORTS.add(port)
            return port

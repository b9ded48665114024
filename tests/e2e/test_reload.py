"""SIGHUP and `llm-gateway reload`: all processes are replaced under load, and no client sees a difference."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.data_dir import DataDir, RunningGateway, running_gateway
from llm_gateway.errors import ConfigurationError
from tests.e2e.process import KEY, CommandProcess, GatewayProcess, free_port, send, until
from tests.e2e.streaming_vendor import BEGIN, DONE, Pause, StreamingVendor, delta, finish, usage
from tests.fork_server import COMMAND_LINE, fork_server
from tests.upstream import UpstreamProcess
from tests.waiting import wait_until

ROLLS = int(os.environ.get("RELOAD_ROLLS", "2"))
"""Replacements under load."""
LONG_ROLLS = 50
"""Replacements under load with --long, of a gateway that was started by its command."""
KEPT = 4
"""Clients that keep their connection."""
NEW = 2
"""Clients that make a connection for each request."""
STREAMS = 3
"""Clients that read streams."""
PAUSE_S = 0.01
"""Seconds between two requests of a client."""
GROWTH_KIB = 512
"""Memory that the supervisor may need more after the last replacement than after the first."""
CHAT: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "Count"}]}


@pytest.fixture
def streamer() -> Iterator[StreamingVendor]:
    with StreamingVendor() as running:
        running.steps = (
            BEGIN, delta(content="one"), Pause(0.4), delta(content="two"), Pause(0.4), finish(), usage(3, 2), DONE
        )  # fmt: skip
        yield running


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


def test_replacements_under_load_refuse_and_cut_nothing(
    tmp_path: Path, mock: UpstreamProcess, streamer: StreamingVendor, request: pytest.FixtureRequest
) -> None:
    is_long = request.config.getoption("--long")
    rolls = LONG_ROLLS if is_long else ROLLS
    sizes: list[tuple[int, int]] = []
    with (CommandProcess if is_long else GatewayProcess)(tmp_path, workers=2) as gateway:
        gateway.provider("acme", mock.base_url, priority=10)
        gateway.provider("streamer", streamer.url, "streamer-1", priority=1)
        with Load(gateway) as load:
            for _ in range(rolls):
                assert reload(gateway) == (0, "Reloaded: new processes serve, and the old ones have ended.\n", "")
                sizes.append(size(gateway.process.pid))
        served, streamed = next(load.served), next(load.streamed)
        assert load.errors == []
        assert {status for status, _ in load.managed} <= {200, 503}
        assert served > 50 * rolls
        assert streamed > rolls
        assert len({descriptors for descriptors, _ in sizes}) == 1, sizes
        assert sizes[-1][1] - sizes[0][1] <= GROWTH_KIB, sizes
        assert load.most_children <= 2 * 3 + 1, "two generations, and the process that reads the settings"
        until(lambda: gateway.summary()["total_requests"] >= served)
        assert gateway.summary()["total_requests"] == served
        assert gateway.summary()["error_requests"] == 0
        assert state(gateway).ended == rolls
        if is_long:
            late = sum(status != 200 for status, _ in load.managed)
            longest = max(seconds for _, seconds in load.managed)
            print(  # noqa: T201 - the figures of the long form
                f"{rolls} replacements: {served} calls, {streamed} streams, {len(load.managed)} management requests "
                f"({late} got 503, the longest took {longest:.2f} s), at most {load.most_children} children; "
                f"supervisor: {sizes[0][0]} descriptors, {sizes[0][1]} to {sizes[-1][1]} KiB"
            )


def test_new_service_keys_take_effect_and_removed_ones_end(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(f"LLM_GATEWAY_SERVICE_KEYS=dev:{KEY},old:the-old-key-of-a-service\n")
    with GatewayProcess(tmp_path) as gateway:

        def status(key: str) -> int:
            return gateway.call("GET", "/api/v1/providers", key=key).status

        assert (status("the-old-key-of-a-service"), status("the-new-key-of-a-service")) == (200, 401)
        kept = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
        assert send(kept, "GET", "/readyz").status == 200
        file.write_text(f"LLM_GATEWAY_SERVICE_KEYS=dev:{KEY},new:the-new-key-of-a-service\n")
        with ThreadPoolExecutor(1) as pool:
            reloading = pool.submit(reload, gateway)
            found = []
            while not reloading.done():
                found.append(status(KEY))
        assert reloading.result()[0] == 0
        assert set(found) == {200}, "requests of the management API wait for the new control process"
        assert (status("the-old-key-of-a-service"), status("the-new-key-of-a-service")) == (401, 200)
        kept.close()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("LLM_GATEWAY_CACHE_TTL_SECONDS=soon", "LLM_GATEWAY_CACHE_TTL_SECONDS must be a finite number"),
        (
            "LLM_GATEWAY_DATABASE_URL=sqlite:///other.db",
            "LLM_GATEWAY_DATABASE_URL cannot change while the gateway runs",
        ),
        ("LLM_GATEWAY_ENCRYPTION_KEYS=short", "The new control ended before all were ready (exit code 78)"),
    ],
)
def test_settings_that_do_not_fit_are_refused_and_the_old_processes_go_on(
    tmp_path: Path, line: str, problem: str
) -> None:
    with GatewayProcess(tmp_path) as gateway:
        before = children(gateway.process.pid)
        (tmp_path / ".env").write_text(f"{line}\n")
        code, output, errors = reload(gateway, "--data-dir", "data")
        assert (code, output) == (1, "")
        assert errors.startswith(f"llm-gateway: Not reloaded: {problem}")
        assert children(gateway.process.pid) == before
        assert gateway.call("GET", "/api/v1/providers").status == 200, gateway.log


def test_another_port_is_refused(tmp_path: Path) -> None:
    """The port comes from `.env` here, since a variable of the running process cannot change."""
    with GatewayProcess(tmp_path) as gateway:
        pass
    port = free_port()
    (tmp_path / ".env").write_text(f"LLM_GATEWAY_PORT={port}\n")
    gateway = GatewayProcess(tmp_path)
    del gateway._environment["LLM_GATEWAY_PORT"]
    gateway.port = port
    with gateway:
        (tmp_path / ".env").write_text(f"LLM_GATEWAY_PORT={free_port()}\n")
        code, _, errors = reload(gateway)
        assert code == 1
        assert "Not reloaded: LLM_GATEWAY_PORT cannot change while the gateway runs: restart it" in errors
        assert gateway.call("GET", "/readyz", key=None).status == 200


@pytest.mark.parametrize("pause_s", [0.05, 0.4, 1.0])
def test_sigterm_in_the_middle_of_a_replacement_ends_with_0(
    tmp_path: Path, streamer: StreamingVendor, pause_s: float
) -> None:
    with GatewayProcess(tmp_path) as gateway, ThreadPoolExecutor(1) as pool:
        gateway.provider("streamer", streamer.url, "streamer-1")
        body = {**CHAT, "stream": True}
        stream = pool.submit(gateway.call, "POST", "/v1/chat/completions", body, cache_control="no-store")
        until(lambda: bool(streamer.calls))
        gateway.process.send_signal(signal.SIGHUP)
        threading.Event().wait(pause_s)
        assert gateway.stop() == 0
        assert stream.result().body.endswith(DONE)


def test_reload_without_a_gateway_says_so(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path) as gateway:
        pass
    code, output, errors = reload(gateway)
    assert (code, output) == (1, "")
    assert errors == "llm-gateway: No gateway runs on the data directory data: start it, or give its --data-dir.\n"


def test_a_gateway_whose_lock_files_were_deleted_keeps_its_directory_and_is_reloaded_by_its_process(
    tmp_path: Path,
) -> None:
    with GatewayProcess(tmp_path) as gateway:
        for file in (tmp_path / "data").glob("*.lock"):
            file.unlink()
        code, _, errors = reload(gateway)
        assert (code, "send SIGHUP to the process yourself" in errors) == (1, True)
        with pytest.raises(ConfigurationError, match="Another gateway uses the data directory"):
            DataDir(tmp_path / "data")
        before = gateway.worker_pid
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: before not in gateway.worker_pids)
        assert gateway.call("GET", "/api/v1/providers").status == 200
        with pytest.raises(ConfigurationError, match="Another gateway uses the data directory"):
            DataDir(tmp_path / "data")


def has_open(pid: int, file: Path) -> bool:
    """Return whether a process has opened a file, be it deleted or not."""
    links = [path.readlink() for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
    return any(str(link).startswith(str(file)) for link in links)


def test_a_control_process_waits_for_the_one_before_it_also_if_the_lock_file_was_deleted(tmp_path: Path) -> None:
    """The file is deleted again and again until the new one opens it; a vendor lets a request of the old one wait."""
    lock = tmp_path / "data" / "control.lock"
    silent, calls = socket.create_server(("127.0.0.1", 0)), ThreadPoolExecutor(1)
    with silent, calls, GatewayProcess(tmp_path) as gateway:
        provider = gateway.provider("silent", f"http://127.0.0.1:{silent.getsockname()[1]}/v1")
        old = gateway.control_pid
        testing = calls.submit(gateway.call, "POST", f"{provider}/test")
        waiting, _ = silent.accept()
        gateway.process.send_signal(signal.SIGHUP)

        def is_opened() -> bool:
            lock.unlink(missing_ok=True)
            return any(has_open(pid, lock) for pid in gateway.control_pids if pid != old)

        wait_until(is_opened, 20)
        until(lambda: "new processes serve, the old ones end" in gateway.log)
        until(lambda: "the next control process has made it again" in gateway.log)
        assert gateway.call("GET", "/api/v1/providers").status == 503
        waiting.close()
        assert testing.result().json["success"] is False
        until(lambda: state(gateway).ended == 1)
        assert gateway.call("GET", "/api/v1/providers").status == 200


def test_an_idle_connection_is_used_once_more_after_a_replacement(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path) as gateway:
        kept = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
        assert send(kept, "GET", "/readyz").status == 200
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: '"event": "retiring"' in gateway.log)
        answer = send(kept, "GET", "/readyz")
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        kept.close()
        until(lambda: state(gateway).ended == 1)
        assert json.loads(gateway.call("GET", "/api/v1/health").body)["status"] == "ok"

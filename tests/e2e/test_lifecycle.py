"""Start, stop and crash: one gateway per data directory, and no accepted request or its usage record is lost."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.process import KEY, GatewayProcess, Response, free_port, send, until
from tests.fork_server import COMMAND_LINE, GATEWAY, fork_server
from tests.upstream import UpstreamProcess

CLIENTS = 16
KEY_END = "0123456789abcdef" * 2


def refusal(directory: Path, **settings: object) -> str:
    """Return the one line that a gateway prints if it cannot start."""
    values = {"local_model": "false", "log_level": "error", **settings}
    environment = {**os.environ, **{f"LLM_GATEWAY_{name.upper()}": str(value) for name, value in values.items()}}
    code, _, complaint = fork_server().run(GATEWAY, (), directory, environment)
    assert code == 78, complaint
    assert len(complaint.splitlines()) == 1, complaint
    return complaint


def question(prompt: str) -> dict[str, str]:
    return {"user_id": "u", "service": "s", "prompt": prompt}


def statuses_of(gateway: GatewayProcess, count: int, key: str | None = KEY) -> list[int]:
    """Send different questions, one after the other."""
    return [
        gateway.call(
            "POST", "/api/v1/generate", question(f"Question {number}"), key=key, cache_control="no-store"
        ).status
        for number in range(count)
    ]


def test_two_gateways_do_not_share_a_port_or_a_data_directory(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path) as gateway:
        said = refusal(tmp_path, port=free_port())
        assert "Another gateway uses the data directory" in said
        assert "LLM_GATEWAY_DATA_DIR" in said
        said = refusal(tmp_path, port=gateway.port, data_dir=tmp_path / "other")
        assert f"Port {gateway.port} on 127.0.0.1 is in use" in said
        assert "LLM_GATEWAY_PORT" in said
        assert gateway.call("GET", "/api/v1/health").json["status"] == "ok"


class Load:
    """Clients that send requests in a loop, each on a keep-alive connection, until `stop`."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(CLIENTS)
        self._clients: list[Future[list[int]]] = [self._pool.submit(self._client, n) for n in range(CLIENTS)]

    def _client(self, number: int) -> list[int]:
        statuses: list[int] = []
        connection = http.client.HTTPConnection("127.0.0.1", self._gateway.port, timeout=30)
        while not self._stop.is_set():
            body = {"user_id": f"u{number}", "service": "load", "prompt": f"{len(statuses)}"}
            statuses.append(send(connection, "POST", "/api/v1/generate", body).status)
        connection.close()
        return statuses

    def stop(self) -> list[int]:
        """Stop and return the statuses of all requests. Raises the first exception of a client."""
        self._stop.set()
        statuses = [status for client in self._clients for status in client.result()]
        self._pool.shutdown()
        return statuses


@pytest.mark.parametrize("model", ["ok", "slow-900"])
def test_sigterm_under_load_loses_nothing(tmp_path: Path, mock: UpstreamProcess, model: str) -> None:
    with GatewayProcess(tmp_path, accept_seconds=2.5) as gateway:
        gateway.provider("acme", mock.base_url, model)
        load = Load(gateway)
        time.sleep(0.3)
        gateway.process.send_signal(signal.SIGTERM)
        until(lambda: gateway.call("GET", "/readyz", key=None).status == 503)
        assert gateway.call("GET", "/healthz", key=None).status == 200
        time.sleep(0.3)
        statuses = load.stop()
        assert set(statuses) == {200}
        assert gateway.ended() == 0
    with GatewayProcess(tmp_path) as gateway:
        summary = gateway.summary()
        assert (summary["total_requests"], summary["error_requests"]) == (len(statuses), 0)
        bills = mock.seen().calls
        assert len(bills) == len(statuses)
        assert summary["total_tokens"] == sum(bill.prompt_tokens + bill.completion_tokens for bill in bills)
        assert "usage journal replayed" not in gateway.log, "a graceful end leaves nothing behind"


def test_a_second_sigterm_ends_the_gateway_at_once(tmp_path: Path, mock: UpstreamProcess) -> None:
    with GatewayProcess(tmp_path, accept_seconds=30, drain_seconds=30) as gateway, ThreadPoolExecutor(1) as pool:
        gateway.provider("acme", mock.base_url, "stall")
        waiting: Future[Response] = pool.submit(gateway.ask)
        until(lambda: mock.seen().in_flight == 1)
        gateway.process.send_signal(signal.SIGTERM)
        until(lambda: gateway.call("GET", "/readyz", key=None).status == 503)
        started = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        response = waiting.result()
        assert (response.status, response.json["code"]) == (503, "overloaded")
        assert response.headers["x-should-retry"] == "true"
        assert response.headers["retry-after"]
        assert gateway.ended() == 0
        assert time.monotonic() - started < 10
    with GatewayProcess(tmp_path) as gateway:
        summary = gateway.summary()
        assert summary["total_requests"] == 1
        assert summary["cost_status_counts"] == {"exact": 0, "estimated": 1, "unpriced": 0}


def test_the_stop_waits_for_drain_seconds_only(tmp_path: Path, mock: UpstreamProcess) -> None:
    with GatewayProcess(tmp_path, drain_seconds=0.5) as gateway, ThreadPoolExecutor(1) as pool:
        gateway.provider("acme", mock.base_url, "stall")
        waiting: Future[Response] = pool.submit(gateway.ask)
        until(lambda: mock.seen().in_flight == 1)
        started = time.monotonic()
        assert gateway.stop() == 0
        assert 0.4 < time.monotonic() - started < 10
        assert waiting.result().json["code"] == "overloaded"


def test_sigint_stops_the_gateway_too(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path) as gateway:
        gateway.process.send_signal(signal.SIGINT)
        assert gateway.ended() == 0


@pytest.mark.parametrize("found_by", ["serve", "usage replay"])
def test_records_of_a_killed_gateway_are_recovered(tmp_path: Path, mock: UpstreamProcess, found_by: str) -> None:
    with GatewayProcess(tmp_path) as gateway, ThreadPoolExecutor(3) as pool:
        path = gateway.provider("acme", mock.base_url)
        answers = [gateway.ask(f"{number}").json for number in range(3)]
        gateway.call("PATCH", path, {"models": ["stall"], "prices": {"stall": {"input": 1, "output": 2}}})
        waiting = [pool.submit(gateway.ask, max_tokens=500) for _ in range(3)]
        until(lambda: mock.seen().in_flight == 3)
        gateway.kill()
        for one in waiting:
            assert isinstance(one.exception(), OSError | http.client.HTTPException)
    if found_by == "usage replay":
        environment = {**os.environ, "LLM_GATEWAY_LOG_LEVEL": "error"}
        for said in ("usage records were moved to the database.\n", "0 usage records were moved to the database.\n"):
            code, written, _ = fork_server().run(COMMAND_LINE, ("usage", "replay"), tmp_path, environment)
            assert (code, written.endswith(said)) == (0, True), written
    with GatewayProcess(tmp_path) as gateway:
        assert ("usage journal replayed" in gateway.log) == (found_by == "serve")
        summary = gateway.summary()
        assert summary["total_requests"] == 6
        assert summary["cost_status_counts"] == {"exact": 3, "estimated": 3, "unpriced": 0}
        exact = sum(answer["cost_usd"] for answer in answers)
        bound = 3 * (9 + 2 * 500) / 1e6
        assert summary["total_cost_usd"] == pytest.approx(exact + bound, abs=3e-6)
        assert [provider["models"] for provider in gateway.call("GET", "/api/v1/providers").json] == [["stall"]]
    with GatewayProcess(tmp_path) as gateway:
        assert gateway.summary() == summary


def test_rate_limits_count_requests_before_a_restart(tmp_path: Path, mock: UpstreamProcess) -> None:
    with GatewayProcess(tmp_path) as gateway:
        gateway.provider("acme", mock.base_url, rate_limit_rpm=3)
        key = gateway.call("POST", "/api/v1/keys", {"name": "shop", "rpm": 2}).json["secret"]
        assert [statuses_of(gateway, 3, key), statuses_of(gateway, 2)] == [[200, 200, 429], [200, 429]]
    with GatewayProcess(tmp_path) as gateway:
        assert [statuses_of(gateway, 1, key), statuses_of(gateway, 1)] == [[429], [429]]
        refused = gateway.call("POST", "/api/v1/generate", question("Hello"), key=key).body.decode()
        assert "This key is at its limit of 2 requests" in refused
    assert mock.seen().total == 3


def test_production_requires_keys_with_scopes(tmp_path: Path) -> None:
    keys = f"shop:a{KEY_END}:call,watch:b{KEY_END}:read,ops:c{KEY_END}"
    settings = {"env": "production", "service_keys": keys, "encryption_keys": "0123456789abcdef" * 4}
    with GatewayProcess(tmp_path, host="0.0.0.0", **settings) as gateway:
        assert gateway.call("GET", "/api/v1/health", key=None, host="any.example").status == 200
        wanted = [("shop", "a", 503, 403, 403), ("watch", "b", 403, 200, 403), ("ops", "c", 503, 200, 422)]
        for _, letter, generate, report, create in wanted:
            body = {"user_id": "u", "service": "s", "prompt": "p"}
            assert gateway.call("POST", "/api/v1/generate", body, key=letter + KEY_END).status == generate
            assert gateway.call("GET", "/api/v1/usage/summary", key=letter + KEY_END).status == report
            assert gateway.call("POST", "/api/v1/providers", {}, key=letter + KEY_END).status == create
        assert gateway.call("GET", "/metrics").status == 401
        assert not any(letter + KEY_END in gateway.log for letter in "abc")
        told = [line for line in gateway.log.splitlines() if "service keys without scopes may do everything" in line]
        assert [json.loads(line)["keys"] for line in told] == [["ops"]]
    assert not (tmp_path / "data" / "encryption.key").exists()


def test_a_full_log_pipe_stops_no_request(tmp_path: Path, mock: UpstreamProcess) -> None:
    gateway = GatewayProcess(tmp_path)
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    gateway.launch(stdout=write_end)
    os.close(write_end)
    gateway.wait_until_ready()
    try:
        gateway.provider("acme", mock.base_url)
        for _ in range(40):
            assert gateway.ask().status == 200
        for number in range(40):
            path = gateway.provider(f"refusing-{number}", mock.base_url, "status-401", priority=20)
            assert gateway.ask().json["provider"] == "acme"
            assert gateway.call("DELETE", path).status == 204
        assert gateway.call("GET", "/healthz", key=None).status == 200
        assert gateway.summary()["total_requests"] == 80
        assert gateway.stop() == 0
    finally:
        gateway.kill()
        os.close(read_end)


def test_a_journal_that_was_deleted_and_made_again_needs_no_reload(tmp_path: Path) -> None:
    with UpstreamProcess() as vendor, GatewayProcess(tmp_path) as gateway:
        gateway.provider("acme", vendor.base_url)
        assert [gateway.ask().status for _ in range(3)] == [200] * 3
        until(lambda: gateway.summary()["total_requests"] == 3)
        before, journal = gateway.worker_pid, tmp_path / "data" / "journal"
        shutil.rmtree(journal)
        until(lambda: gateway.ask().status == 503)
        journal.mkdir(mode=0o700)
        until(lambda: gateway.ask().status == 200)
        assert gateway.worker_pid != before
        assert "the usage journal is lost: this worker ends, and another one makes a new journal" in gateway.log
        stored = gateway.summary()["total_requests"]
        assert gateway.ask().status == 200
        until(lambda: gateway.summary()["total_requests"] == stored + 1)
        assert gateway.call("GET", "/readyz").status == 200

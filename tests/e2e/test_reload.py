"""SIGHUP and `llm-gateway reload`: what replaces all processes, and what is refused.

Reloads under load are in tests/faults/test_reloads.py.
"""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llm_gateway.data_dir import DataDir
from llm_gateway.errors import ConfigurationError
from tests.e2e.process import KEY, GatewayProcess, free_port, send, until
from tests.e2e.reloads import CHAT, STEPS, children, reload, state
from tests.e2e.streaming_vendor import DONE, StreamingVendor
from tests.waiting import wait_until


@pytest.fixture
def streamer() -> Iterator[StreamingVendor]:
    with StreamingVendor() as running:
        running.steps = STEPS
        yield running


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

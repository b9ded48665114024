"""A reload takes code and settings from files; nothing is imported from them before, and broken code harms nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.process import KEY, CommandProcess
from tests.e2e.reloads import CHAT, reload, state
from tests.e2e.streaming_vendor import BEGIN, DONE, StreamingVendor, delta, finish, usage
from tests.upstream import UpstreamProcess

PACKAGE = Path(__file__).parents[2] / "src" / "llm_gateway"
OLD, NEW = "old:a-key-that-is-in-a-file", "new:another-key-in-the-file"
GEMINI = {"contents": [{"role": "user", "parts": [{"text": "Count"}]}]}
CLAUDE = {"model": "ok", "max_tokens": 5, "messages": [{"role": "user", "content": "Count"}]}
REQUESTS: tuple[tuple[str, str, object, int], ...] = (
    ("POST", "/v1/chat/completions", CHAT, 200),
    ("POST", "/v1/chat/completions", {"messages": 1}, 400),
    ("POST", "/v1/chat/completions", {**CHAT, "model": "status-400"}, 400),
    ("POST", "/v1/responses", {"model": "ok", "input": "Count"}, 200),
    ("POST", "/v1/messages", CLAUDE, 200),
    ("POST", "/v1/messages/count_tokens", CLAUDE, 200),
    ("POST", "/v1beta/models/ok:generateContent", GEMINI, 200),
    ("POST", "/api/v1/generate", {"user_id": "u", "service": "s", "prompt": "Count"}, 200),
    ("GET", "/v1/models", None, 200),
    ("GET", "/v1/nothing", None, 404),
    ("GET", "/api/v1/health", None, 200),
    ("GET", "/api/v1/providers", None, 200),
    ("GET", "/api/v1/providers?x=1", None, 422),
    ("GET", "/api/v1/overrides", None, 200),
    ("GET", "/api/v1/usage/summary", None, 200),
    ("GET", "/api/v1/usage/by-customer", None, 200),
    ("GET", "/openapi.json", None, 200),
    ("GET", "/docs", None, 200),
    ("GET", "/metrics", None, 200),
)


@pytest.fixture
def streamer() -> Iterator[StreamingVendor]:
    with StreamingVendor() as running:
        running.steps = (BEGIN, delta(content="one"), finish(), usage(3, 2), DONE)
        yield running


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, which the gateway of this test runs."""
    copy = tmp_path / "installed" / "llm_gateway"
    shutil.copytree(PACKAGE, copy)
    monkeypatch.setenv("PYTHONPATH", str(copy.parent))
    return copy


def send_all(gateway: CommandProcess, streamer: StreamingVendor) -> None:
    """Send a request of each kind, and check how it is answered."""
    for method, path, body, status in REQUESTS:
        answer = gateway.call(method, path, body, cache_control="no-store")
        assert answer.status == status, (method, path, answer.body)
    stream = gateway.call("POST", "/v1/chat/completions", {**CHAT, "model": "streamer-1", "stream": True})
    assert stream.body.endswith(DONE)
    path = gateway.provider("another", streamer.url, "another-1")
    assert gateway.call("PATCH", path, {"priority": 3}).status == 200
    assert gateway.call("DELETE", path).status == 204


def test_files_of_code_and_settings_are_read_at_a_reload_only(
    tmp_path: Path, package: Path, mock: UpstreamProcess, streamer: StreamingVendor
) -> None:
    (tmp_path / "keys").write_text(f"dev:{KEY},{OLD}\n")
    (tmp_path / "gateway.env").write_text("LLM_GATEWAY_SERVICE_KEYS_FILE=keys\nLLM_GATEWAY_LOG_LEVEL=error\n")
    with CommandProcess(tmp_path, "--env-file", "gateway.env", workers=2, log_level="info") as gateway:

        def statuses() -> list[int]:
            return [gateway.call("GET", "/v1/models", key=each.partition(":")[2]).status for each in (OLD, NEW)]

        gateway.provider("acme", mock.base_url, priority=10, models=["ok", "status-400"])
        gateway.provider("streamer", streamer.url, "streamer-1", priority=1)
        pid = gateway.process.pid
        sound = package.rename(tmp_path / "sound")
        package.mkdir()
        (package / "__init__.py").write_text("raise ImportError('half installed')\n")
        (tmp_path / "keys").write_text(f"dev:{KEY},{NEW}\n")
        send_all(gateway, streamer)
        code, _, errors = reload(gateway)
        assert code == 1
        assert errors.startswith("llm-gateway: Not reloaded: The supervisor's new code cannot start: ImportError: half")
        send_all(gateway, streamer)
        assert statuses() == [200, 401]
        shutil.rmtree(package)
        sound.rename(package)
        assert reload(gateway)[0] == 0
        assert statuses() == [401, 200]
        send_all(gateway, streamer)
        assert (gateway.process.pid, state(gateway).ended) == (pid, 2)
        assert "--resume" in Path(f"/proc/{pid}/cmdline").read_text()
        assert '"level": "info"' not in gateway.log, "the file wins over the variable"
